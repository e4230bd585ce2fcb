"""The pages of docs/: links, anchors and navigation hold, code blocks run, load or parse, and the site builds."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from site_pages import DOCS, FENCE, NOT_HERE, ROOT, blocks, commands, pages, run_python

from arvbench.errors import UserError
from arvbench.harness.cli import command_line
from arvbench.harness.suites.suite import load_suite

PAGES = pages()
OUTSIDE = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Page of the site that a hook makes -> its file in the root of the repository."""
DOCUMENTS = [*PAGES, *(ROOT / name for name in ("README.md", *OUTSIDE.values()))]
LINK = re.compile(r"\]\(<?([^)>\s]+)>?\)")
HEADING = re.compile(r"^(#+) +(.+?)$", re.MULTILINE)
RUN = ("sampling.md", "your-number-differs.md")
"""Pages whose Python blocks are run; of all others they are compiled."""
LANGUAGES = {"python", "yaml", "toml", "text", "sh", "bash"}


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml; names of Python objects in it stay texts."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda loader, suffix, node: suffix)


def configuration() -> dict[str, Any]:
    return yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)


def anchors(document: Path) -> set[str]:
    """Anchors of the headings, as MkDocs and GitHub both make them, and those that are written out."""
    text = FENCE.sub("", document.read_text())
    titles = [
        re.sub(r"[^\w\- ]", "", re.sub(r"[`*_]|\]\([^)]*\)", "", title).lower()) for _, title in HEADING.findall(text)
    ]
    return {re.sub(r"[ -]+", "-", title.strip()) for title in titles} | set(re.findall(r'id="([^"]+)"', text))


def links(document: Path) -> list[str]:
    return [target for target in LINK.findall(FENCE.sub("", document.read_text())) if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings_that_exist(document: Path) -> None:
    for target in links(document):
        name, _, anchor = target.partition("#")
        file = (document.parent / name).resolve() if name else document
        assert file.exists(), f"{document.name} links {target}"
        if anchor:
            assert anchor in anchors(file), f"{document.name} links {target}; headings there: {sorted(anchors(file))}"


def test_links_are_found() -> None:
    assert sum(len(links(page)) for page in PAGES) > 60


def in_navigation(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    children = entry.values() if isinstance(entry, dict) else entry
    return [page for child in children for page in in_navigation(child)]


def test_every_page_is_in_the_navigation_once() -> None:
    listed = in_navigation(configuration()["nav"])
    assert sorted(listed) == sorted([page.name for page in PAGES] + [*OUTSIDE])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_fenced_blocks_are_valid(document: Path, tmp_path: Path) -> None:
    for block in blocks(document):
        place = f"{document.name}:{block.line}"
        assert block.language in LANGUAGES, f"{place}: {block.language}"
        if block.language == "python":
            compile(block.code, place, "exec")
        elif block.language == "bash":
            subprocess.run(["bash", "-n"], input=block.code, text=True, check=True)
        elif block.language == "toml":
            tomllib.loads(block.code)
        elif block.language == "yaml":
            check_yaml(block.code, place, tmp_path / "suite.yaml")


def check_yaml(text: str, place: str, file: Path) -> None:
    """A suite loads; one without a name has demo weights. Other YAML, such as a cluster's, can be read."""
    content = yaml.safe_load(text)
    assert isinstance(content, dict), f"{place}: write keys of a case as indented code"
    if "cases" not in content:
        return
    file.write_text(text if "name" in content else f"name: nameless\ndefaults: {{weights: demo}}\n{text}")
    try:
        load_suite(str(file))
    except UserError as error:
        # A model of a package that is not installed here; its own test measures it.
        assert "snake/tiny" in str(error), f"{place}: {error}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_parse(document: Path) -> None:
    """Every `arvbench` and `make` command, in indented code, in tables and in sentences."""
    text = document.read_text()
    inline = [] if document.name == "CHANGELOG.md" else re.findall(r"(?<!`)`(arvbench [a-z][^`]*)`", text)
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in commands(text):
        words = shlex.split(line, comments=True)
        if words and words[0] == "make" and document.name != "clusters.md":
            assert words[1] in targets, f"{document.name}: {line}"
        if words and words[0] == "arvbench":
            parse(words[1:], f"{document.name}: {line}")
    for line in inline:
        first = shlex.split(line)[1]
        assert first in command_line().commands, f"{document.name}: `{line}`"


def parse(words: list[str], place: str) -> None:
    """Parse a command as the program does; uppercase words and `...` stand for what a reader writes there."""
    command: Any = command_line()
    context = None
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, place
        command, words = command.commands[words[0]], words[1:]
    if hasattr(command, "commands") or "..." in words:
        return
    try:
        context = command.make_context(command.name, [word for word in words if word not in (">", "\\")])
    except Exception as error:
        raise AssertionError(f"{place}: {error}") from error
    assert context is not None


@pytest.mark.parametrize("name", RUN)
def test_python_blocks_print_what_the_page_shows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python tests/support/site_pages.py docs/PAGE.md --write` renews what they print."""
    monkeypatch.chdir(tmp_path)
    ran = list(run_python(DOCS / name))
    assert ran
    for block, printed in ran:
        if block.output is not None and NOT_HERE not in block.code:
            assert printed == block.output, f"{name}:{block.line}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. MkDocs makes a warning of a broken link, anchor or docstring, and an error of a warning."""
    missing = [name for name in ("mkdocs", "material", "mkdocstrings") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (`make docs` installs the extra `docs`)")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_has_every_page_and_asks_for_nothing_elsewhere(site: Path) -> None:
    built = {path.name: path.read_text() for path in site.glob("*.html")}
    assert {page.with_suffix(".html").name for page in PAGES} <= built.keys()
    for name, text in built.items():
        asked = re.findall(r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=[\"']?(https?://[^\"' >]+)", text)
        assert not asked, f"{name} asks {asked}"
    assert "PerImageNoise" in built["api.html"] and "CaseConfig" in built["api.html"]


@pytest.mark.browser
def test_the_site_is_read_and_searched_from_a_folder_at_any_width(site: Path) -> None:
    """No page is wider than its window, asks for anything or complains; what is wider scrolls in a box."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium found: install chromium to run the browser tests")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    complaints: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 400, "height": 900})
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: complaints.append(asked.url) if asked.url.startswith("http") else None)
        for file in sorted(site.glob("[!4]*.html")):
            page.goto(file.as_uri())
            if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
                complaints.append(f"{file.name} is wider than its window")
        page.set_viewport_size({"width": 1280, "height": 900})
        # A question in the address waits for the search to be ready, as typed text does not.
        page.goto((site / "index.html").as_uri() + "?q=guidance")
        page.wait_for_selector(".md-search-result__item", timeout=60_000)
        browser.close()
    assert complaints == []
