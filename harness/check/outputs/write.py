"""Writes the files of a check: the verdict, JUnit XML and Markdown, and the summary of a GitHub job."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from arvbench.errors import UserError
from arvbench.files import write_whole
from arvbench.harness.check.outputs.junit import junit_xml
from arvbench.harness.check.outputs.markdown import check_markdown
from arvbench.paths import printable
from arvbench.results.verdict import VERDICT_NAME, Check

JUNIT_NAME: Final = "junit.xml"
MARKDOWN_NAME: Final = "verdict.md"
SUMMARY_VARIABLE: Final = "GITHUB_STEP_SUMMARY"
"""Variable that names the file whose Markdown a GitHub job shows."""


def write_outputs(check: Check, folder: Path, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Write the files of a check into `folder`, and append the Markdown to the summary of a GitHub job, if it has one.

    Returns one warning when that summary cannot be written: the verdict stands without it. Raises UserError when the
    folder cannot be written.
    """
    markdown = check_markdown(check)
    texts = {VERDICT_NAME: check.model_dump_json(indent=2), JUNIT_NAME: junit_xml(check), MARKDOWN_NAME: markdown}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_whole(folder / name, text)
    except OSError as error:
        raise UserError(
            f"cannot write the verdict to {printable(folder)}: {error.strerror or error}; "
            "choose another folder with --out"
        ) from error
    return _append_summary(markdown, environment.get(SUMMARY_VARIABLE, ""))


def _append_summary(markdown: str, name: str) -> list[str]:
    if not name:
        return []
    try:
        # A named pipe that nobody reads would otherwise wait for ever.
        descriptor = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(markdown)
    except (OSError, ValueError) as error:
        return [f"cannot write ${SUMMARY_VARIABLE}, {printable(name)}: {error}"]
    return []
