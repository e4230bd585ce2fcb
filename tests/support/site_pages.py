"""Pages of docs/ and of the repository's root, as tests read them: code blocks, links, headings.

`python tests/support/site_pages.py docs/sampling.md` runs the Python blocks of a page and prints what each printed;
with `--write` it puts that into the `text` block after each.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SNIPPET = re.compile(r'^--8<-- "([^"]+)"$', re.MULTILINE)
NOT_HERE = "/path/to/"
"""Begin of a path that a reader replaces: a block with one is compiled, and not run."""


@dataclass(frozen=True)
class Block:
    """A fenced block of code, with the text block that follows it at once."""

    language: str
    code: str
    line: int
    output: str | None


def pages() -> list[Path]:
    """All pages of docs/, in order."""
    return sorted(DOCS.glob("*.md"))


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, with files put in where it names them."""
    text = page.read_text()
    found = list(FENCE.finditer(text))
    for number, block in enumerate(found):
        after = found[number + 1] if number + 1 < len(found) else None
        follows = after is not None and after[1] == "text" and not text[block.end() : after.start()].strip()
        yield Block(
            language=block[1],
            code=SNIPPET.sub(lambda match: (ROOT / match[1]).read_text().rstrip("\n"), block[2]),
            line=text[: block.start()].count("\n") + 1,
            output=after[2] if after is not None and follows else None,
        )


def commands(text: str) -> list[str]:
    """Lines of indented code, and of `sh` blocks; a line that goes on in the next one is one with it."""
    fenced = "".join(code for language, code in FENCE.findall(text) if language == "sh")
    indented = "".join(f"{line.strip()}\n" for line in FENCE.sub("", text).splitlines() if re.match(r"    \S", line))
    return re.sub(r"\\\n\s*", "", fenced + indented).splitlines()


def run_python(page: Path) -> Iterator[tuple[Block, str]]:
    """Run the Python blocks of a page one after another; each with what it printed, "" where it was not run."""
    names: dict[str, Any] = {"__name__": page.stem}
    torch.set_num_threads(1)
    for block in blocks(page):
        if block.language != "python":
            continue
        code = compile(block.code, f"{page.name}:{block.line}", "exec")
        printed = io.StringIO()
        if NOT_HERE not in block.code:
            with contextlib.redirect_stdout(printed):
                exec(code, names)
        yield block, printed.getvalue()


def main(page: Path, *, write: bool) -> None:
    """Print or write the outputs of a page's Python blocks."""
    lines = page.read_text().splitlines(keepends=True)
    for block, printed in reversed(list(run_python(page))):
        if not write:
            sys.stdout.write(f"{page.name}:{block.line}\n{printed}\n")
        elif block.output is not None and NOT_HERE not in block.code:
            begin = next(n for n in range(block.line, len(lines)) if lines[n].startswith("```text")) + 1
            end = next(n for n in range(begin, len(lines)) if lines[n].startswith("```"))
            lines[begin:end] = [printed]
    if write:
        page.write_text("".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), write="--write" in sys.argv)
