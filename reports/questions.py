"""Questions that the sections of a page answer, by heading; a section without one has its heading alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

QUESTIONS: Final[Mapping[str, str]] = {
    "Changes": "Did anything get slower, larger or worse?",
    "History": "At which commit did a number change?",
    "Results": "What came out of every case?",
    "Searches": "Which point was best, of how many?",
    "Cases without a speed": "What failed, and why?",
    "Quality": "How good are the images, by which protocol?",
    "Samples": "What do the images look like?",
    "Published": "Is the published number true?",
    "Claims": "Which headline claims hold?",
    "Latency": "Where does the time of a call go?",
    "Roofline": "How far is every step from what the machine can do?",
    "Cache": "What is kept between steps?",
    "Memory": "How much memory is needed, by which definition?",
    "Capacity": "How large a batch fits?",
    "Energy": "What does an image cost in joules?",
    "Correctness": "Does each backend draw what its judge draws?",
    "Settings": "What was set, and how does it differ from the official settings?",
    "Environment": "On what did it run?",
    "How to reproduce": "Which commands make these numbers again?",
    "How to read the numbers": "What do the words mean?",
}
OPEN: Final = ("Changes", "History", "Results")
"""Sections that start open."""
