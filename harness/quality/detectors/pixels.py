"""Detectors of a wrong range of bytes, rounding, lossy files, resizes and reduced precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor

from arvbench.harness.quality.detectors.evidence import Evidence, finding
from arvbench.harness.quality.images.source import UNKNOWN
from arvbench.results.schema import Finding

_SAME_RULE = {"127.5x+128": "round"}
"""int(127.5 y + 128) of y in [-1, 1] is int(255 x + 0.5) of x in [0, 1]."""
_MOVES = "the two differ by half a grey level in the mean, which moves FID"
_LEAST = 1000
"""Fewest pixels in a bin for a comparison with its neighbour."""
_STEADY = 0.8
"""Smallest ratio of neighbouring bins that counts as an even density."""
_EMPTY = 0.2
"""Largest ratio of bin 255 to 254 under truncation, where bin 255 gets only x = 1; under rounding
it gets half a bin and all brighter pixels."""
_HALF = 0.7
"""Largest ratio of bin 0 to 1 under rounding, where bin 0 gets half a bin; under truncation it gets a whole bin."""


_DARK = 16
"""Smallest brightest byte of a set of pictures that is not taken for unscaled numbers."""


def range_of_bytes(evidence: Evidence) -> Iterator[Finding]:
    """Samples or reference images whose bytes are no picture: unscaled floats, or a single value."""
    sides = [(evidence.samples, evidence.histogram)]
    if evidence.reference is not None and evidence.reference.histogram is not None:
        sides.append((evidence.reference.name, evidence.reference.histogram))
    for name, histogram in sides:
        if (fault := _fault_of_range(histogram)) is not None:
            yield finding("range-of-bytes", "warning", f"{name}: {fault}")


def _fault_of_range(histogram: Tensor) -> str | None:
    """Return the fault that the set (256,) of byte values shows; None for pictures."""
    present = histogram.nonzero()[:, 0].tolist()
    if len(present) < 2:
        return f"every byte of every image is {present[0] if present else 'missing'}: the images are all alike"
    if present[-1] <= 1:
        return "all bytes are 0 or 1 of 0..255: floats in [0, 1] were saved as bytes without the factor 255"
    if present == [0, 1, 255]:
        return "all bytes are 0, 1 or 255: floats in [-1, 1] were saved as bytes without being scaled to 0..255"
    if present[-1] < _DARK:
        return (
            f"no byte is larger than {present[-1]} of 255: the images are almost black, as numbers that were not scaled"
        )
    return None


def judged_rule(histogram: Tensor) -> Literal["truncate", "round"] | None:
    """Return the rounding rule that the end bins of a byte histogram (256,) show; None when they are inconclusive.

    Clipped pixels (below 0 or above 1) fill the end bins under both rules and hide their width, so images with black or
    white areas are not judged.
    """
    counts = histogram.double().tolist()
    truncated = counts[254] >= max(_LEAST, _STEADY * counts[253]) and counts[255] < _EMPTY * counts[254]
    rounded = counts[1] >= max(_LEAST, _STEADY * counts[2]) and counts[0] < _HALF * counts[1]
    if truncated == rounded:
        return None
    return "truncate" if truncated else "round"


def rounding(evidence: Evidence) -> Iterator[Finding]:
    """A rounding rule, stated or judged from the bytes, that differs from the official one; or an unknown rule."""
    stated, official = (
        _canonical(rule) for rule in (evidence.provenance.uint8_rule, evidence.recipe.get("uint8_rule"))
    )
    if stated == "none" or evidence.reconstructions:
        return
    judged = None if _jpegs(evidence) or evidence.provenance.resize != "none" else judged_rule(evidence.histogram)
    if stated is not None and judged is not None and judged != stated:
        yield finding(
            "uint8-rule",
            "warning",
            f"bytes are said to be made by the rule {stated!r} and their histogram is that of {judged!r}: {_MOVES}",
        )
    used = stated or judged
    if used is None:
        yield finding(
            "uint8-rule-unknown",
            "note",
            "it is unknown whether floats were truncated or rounded to bytes, and the histogram does not tell: "
            f"{_MOVES}",
        )
    elif official is not None and used != official:
        how = "are made" if stated else "look as if they were made"
        yield finding(
            "uint8-rule",
            "warning",
            f"bytes {how} by the rule {used!r}, those of the official samples by {official!r}: {_MOVES}",
        )
    elif official is None and stated is None:
        yield finding(
            "uint8-rule-judged",
            "note",
            f"bytes look as if made by the rule {used!r}, from their histogram; neither the samples nor a recipe state "
            f"one: compare with samples of the same rule ({_MOVES})",
        )


def _canonical(rule: str | None) -> str | None:
    return None if rule in (None, UNKNOWN) else _SAME_RULE.get(rule, rule)


def _jpegs(evidence: Evidence) -> int:
    return sum(name.lower().endswith((".jpg", ".jpeg")) for name in evidence.files)


def jpeg(evidence: Evidence) -> Iterator[Finding]:
    """Samples that are stored as JPEG."""
    lossy = _jpegs(evidence)
    if lossy:
        yield finding(
            "jpeg",
            "warning",
            f"{lossy:,} of {evidence.count:,} samples are JPEG: its compression changes every number (published ones "
            "are of PNG or .npz); save samples without loss",
        )


def resize_of_recipe(evidence: Evidence) -> Iterator[Finding]:
    """A resize before the evaluation that differs from the official one."""
    official, used = evidence.recipe.get("resize"), evidence.provenance.resize
    if official is None or official == used or evidence.reconstructions:
        return
    yield finding(
        "resize",
        "warning",
        f"resize before the evaluation is {used!r}, that of the official samples {official!r}: their FIDs "
        "are not comparable",
    )


def precision_of_arithmetic(evidence: Evidence) -> Iterator[Finding]:
    """TF32 or autocast in the process that drew the images."""
    on = [name for name, is_on in (("TF32", evidence.tf32), ("autocast", evidence.autocast)) if is_on]
    if on:
        verb = "are" if len(on) > 1 else "is"
        yield finding(
            "reduced-precision",
            "note",
            f"{' and '.join(on)} {verb} on in this process, which drew the images: they differ from those of fp32; "
            "features were extracted without it, in fp32",
        )
