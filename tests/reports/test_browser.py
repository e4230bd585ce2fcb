"""The built page in a real browser, without a network."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

import pandas
import pytest
import records as make
from figure_records import own_records
from figures import EVERY_FIGURE
from histories import records_of, write
from searches import search_records
from verdicts import every_verdict

from arvbench.harness.history.history import history_of
from arvbench.reports.build import build_report
from arvbench.reports.sections import ANSWER, SECTIONS
from arvbench.results.claims import OUTCOMES_NAME, SHIPPED_OUTCOMES

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.browser

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def page_url(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with every section: what no record has lies beside one of them, or comes from other commits."""
    folder = tmp_path_factory.mktemp("page")
    beside = folder / "beside"
    first = make.many_records(run_folder)[0]
    make.write_records(beside / "records.jsonl", [first, *search_records(first=700), *own_records(first=900)])
    (beside / "verdict.json").write_text(every_verdict().model_dump_json())
    shutil.copy(SHIPPED_OUTCOMES, beside / OUTCOMES_NAME)
    newest = {"git_commit": first.environment.git_commit}
    commits = records_of((1.0,) * 6 + (1.6,) * 6, environment=lambda place: newest if place == 11 else {}, first=500)
    history = history_of([write(folder / "commits", commits)])
    build_report([run_folder, beside], folder / "report.html", history=history)
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("no Chromium found: install chromium to run the browser tests")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        yield browser
        browser.close()


AXE = ROOT / "build" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
"""Put there by `.ci/run`, or by `npm install --prefix build/npm axe-core`."""
OPEN_ALL = "document.querySelectorAll('details').forEach(details => { details.open = true })"
WINDOWS = [(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")]


@pytest.fixture(scope="module", params=WINDOWS, ids=str)
def shown(browser: Any, page_url: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page in a window, opened once for all tests that only look: what they unfold they fold again."""
    with opened(browser, page_url, *request.param) as page:
        yield page


@pytest.fixture(scope="module")
def tables_url(page_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page without its pictures, which opens in half the time."""
    whole = Path(unquote(urlsplit(page_url).path)).read_text(encoding="utf-8")
    path = tmp_path_factory.mktemp("tables") / "report.html"
    path.write_text(re.sub(r"<svg.*?</svg>", "", whole, flags=re.DOTALL), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def window(browser: Any, tables_url: str) -> Iterator[Any]:
    with opened(browser, tables_url, *WINDOWS[0]) as page:
        yield page


@pytest.fixture
def page(window: Any, tables_url: str) -> Any:
    """The page of tables, loaded anew for a test that changes it."""
    window.emulate_media(media="screen")
    window.goto(tables_url)
    return window


@contextmanager
def unfolded(page: Any) -> Iterator[None]:
    """Open all details, and close those that were closed."""
    closed = page.evaluate_handle("[...document.querySelectorAll('details:not([open])')]")
    page.evaluate(OPEN_ALL)
    yield
    closed.evaluate("closed => closed.forEach(details => { details.open = false })")


@contextmanager
def opened(browser: Any, page_url: str, width: int, scheme: str) -> Iterator[Any]:
    """Open the page; a request outside itself, an error or a console message fails the test."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(f"console {message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:")) else complaints.append(request.url),
    )
    page.goto(page_url)
    yield page
    page.close()
    assert complaints == []


def test_the_page_fits_its_window(shown: Any) -> None:
    width, needed = shown.evaluate("[document.documentElement.clientWidth, document.documentElement.scrollWidth]")
    assert needed <= width
    with unfolded(shown):
        assert shown.evaluate("document.documentElement.scrollWidth") <= width


LAYOUT = """() => {
  const found = [];
  const box = (element) => element.getBoundingClientRect();
  const name = (element) => element.id || element.getAttribute("aria-label") || element.textContent.trim().slice(0, 40);
  const share = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
  // What is read together: the blocks of a section, and the words of a figure.
  const overlaps = (what, elements) => {
    const boxes = elements.map(box);
    for (let i = 0; i < boxes.length; i += 1) {
      for (let j = 0; j < i; j += 1) {
        if (share(boxes[i], boxes[j])) found.push(`${what}: ${name(elements[j])} | ${name(elements[i])}`);
      }
    }
  };
  for (const section of document.querySelectorAll("section")) {
    const folded = section.querySelector(":scope > details");
    overlaps(section.id, Array.from((folded ?? section).children).filter((child) => box(child).height > 0));
  }
  for (const figure of document.querySelectorAll("figure[id] svg")) {
    // The frame of turned words is larger than the words.
    const words = Array.from(figure.querySelectorAll("text")).filter((text) => !text.closest("[transform*='rotate']")
      || /rotate\\(-?0[ )]/.test(text.getAttribute("transform")));
    overlaps(figure.closest("figure").id, words);
  }
  for (const element of document.querySelectorAll("main *, header *")) {
    if (element.closest("svg") || element.scrollWidth <= element.clientWidth + 1 || element.clientWidth === 0) continue;
    const style = getComputedStyle(element);
    const scrolls = ["auto", "scroll"].includes(style.overflowX);
    const shadow = style.backgroundImage.includes("gradient");
    if (scrolls ? element.tabIndex < 0 || !shadow : style.overflowX !== "visible") found.push(`cut: ${name(element)}`);
  }
  return found;
}"""


def test_in_every_section_nothing_overlaps_and_what_is_cut_scrolls_and_says_so(shown: Any) -> None:
    with unfolded(shown):
        headings = shown.locator("h2").all_inner_texts()
        assert headings == [section.heading for section in SECTIONS if section is not ANSWER]
        assert shown.evaluate(LAYOUT) == []


def test_every_image_is_decoded(shown: Any) -> None:
    sizes = shown.evaluate("Array.from(document.images, image => image.complete && image.naturalWidth)")
    assert len(sizes) == 2 and all(sizes)


PICTURES = """() => Array.from(document.querySelectorAll("figure[id] svg"), (picture) => {
  const { width, height } = picture.getBoundingClientRect();
  const lines = picture.querySelectorAll("[id*=axes_1] path").length;
  return [picture.closest("figure").id, picture.checkVisibility({ visibilityProperty: true }), width, height, lines];
})"""


def test_every_figure_is_visible(shown: Any) -> None:
    with unfolded(shown):
        pictures = shown.evaluate(PICTURES)
    assert {name for name, *_ in pictures} >= {f"figure-{name}" for name in EVERY_FIGURE}
    for name, visible, width, height, lines in pictures:
        assert visible and width > 300 and height > 100 and lines > 5, name


def test_text_stands_out_from_its_background(shown: Any) -> None:
    """WCAG 2 contrast of at least 4.5 for text, in both schemes."""
    contrast = """
    (variable) => {
      const style = getComputedStyle(document.documentElement);
      const luminance = (name) => {
        const hex = style.getPropertyValue(name).trim();
        const channels = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255)
          .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2];
      };
      const [a, b] = [luminance(variable), luminance("--paper")].sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05);
    }"""
    for name in ("--ink", "--muted", "--link", "--good", "--bad", "--warn"):
        assert shown.evaluate(contrast, name) >= 4.5, name
    for number in range(1, 9):
        assert shown.evaluate(contrast, f"--series-{number}") >= 3, number


AUDIT = """async () => {
  const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];
  const options = { runOnly: { type: "tag", values: tags }, resultTypes: ["violations"] };
  const { violations, passes } = await axe.run(document, options);
  const found = violations.map((v) => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 200)]);
  return { found, passes: passes.length };
}"""


@pytest.mark.parametrize(("width", "scheme"), [WINDOWS[0], pytest.param(*WINDOWS[-1], marks=pytest.mark.slow)])
def test_axe_finds_no_violation_of_level_a_or_aa_folded_and_unfolded(
    browser: Any, page_url: str, width: int, scheme: str
) -> None:
    if not AXE.exists():
        pytest.skip("no axe-core found: npm install --prefix build/npm axe-core")
    with opened(browser, page_url, width, scheme) as page:
        page.evaluate(AXE.read_text(encoding="utf-8"))
        for state in ("1", OPEN_ALL):
            page.evaluate(state)
            audit = page.evaluate(AUDIT)
            assert audit["found"] == [] and audit["passes"] > 15


def test_the_data_of_a_figure_are_saved_without_a_network(page: Any, tmp_path: Path) -> None:
    page.evaluate(OPEN_ALL)
    links = "figures => figures.map(figure => [figure.id, figure.querySelector('a[download]')]).filter(([, a]) => a)"
    found = page.locator("figure[id]").evaluate_all(f"{links}.map(([name, a]) => [name, a.download, a.href])")
    saved = {name: (file, address) for name, file, address in found if name.removeprefix("figure-") in EVERY_FIGURE}
    for name in EVERY_FIGURE:
        file, address = saved[f"figure-{name}"]
        assert file in (f"figure-{name}.csv", f"figure-{name}.csv.gz")
        with urlopen(address) as data:
            (tmp_path / file).write_bytes(data.read())
        rows = pandas.read_csv(tmp_path / file)
        assert rows.columns[0] == "Record" and len(rows) > 0
    # A click saves the same file, of each kind that there is.
    for name, file in {Path(file).suffix: (name, file) for name, (file, _) in saved.items()}.values():
        with page.expect_download() as waiting:
            page.locator(f"#{name} a[download]").click()
        assert waiting.value.suggested_filename == file
        waiting.value.save_as(tmp_path / "saved")
        assert (tmp_path / "saved").read_bytes() == (tmp_path / file).read_bytes()
    assert page.locator("#figure-memory figcaption").inner_text().endswith("rows).")


def test_a_heading_sorts_by_number_and_empty_cells_stay_last(page: Any) -> None:
    table = page.locator("#results table")
    header = table.locator("thead th", has_text="Batch")
    place = header.evaluate("th => th.cellIndex")

    def shown(at: int) -> list[str]:
        return table.locator("tbody tr").evaluate_all("(rows, at) => rows.map(row => row.cells[at].innerText)", at)

    before = sorted(int(text) for text in shown(place))
    assert header.get_attribute("aria-sort") == "none"
    header.locator("button").click()
    assert [int(text) for text in shown(place)] == before, "10 comes after 9, not after 1"
    assert header.get_attribute("aria-sort") == "ascending"
    header.locator("button").focus()
    page.keyboard.press("Enter")
    assert [int(text) for text in shown(place)] == before[::-1]
    assert header.get_attribute("aria-sort") == "descending"

    speed = table.locator("thead th", has_text="Throughput")
    place = speed.evaluate("th => th.cellIndex")
    for direction in ("ascending", "descending"):
        speed.locator("button").click()
        assert speed.get_attribute("aria-sort") == direction
        texts = [text.split("\n")[0] for text in shown(place)]
        numbers = [float(text) for text in texts if text != "\N{EN DASH}"]
        assert numbers == sorted(numbers, reverse=direction == "descending")
        assert texts[len(numbers) :] == ["\N{EN DASH}"] * 5
    assert header.get_attribute("aria-sort") == "none"


def test_numbers_with_commas_and_keys_of_their_own_sort_by_value(page: Any) -> None:
    """A count of 50,000 samples stands in text, a step that sorts by more digits than it shows in an attribute."""
    page.evaluate(OPEN_ALL)
    table = page.locator("table", has=page.locator("caption", has_text="What the protocol ids stand for"))
    header = table.locator("thead th", has_text="Samples")
    place = header.evaluate("th => th.cellIndex")
    for direction in ("ascending", "descending"):
        header.locator("button").click()
        assert header.get_attribute("aria-sort") == direction
        texts = table.locator("tbody tr").evaluate_all("(rows, at) => rows.map(row => row.cells[at].innerText)", place)
        numbers = [int(text.replace(",", "")) for text in texts]
        assert set(numbers) == {1000, 50_000} and numbers == sorted(numbers, reverse=direction == "descending")


def test_text_columns_sort_as_a_reader_would(page: Any) -> None:
    table = page.locator("#results table")
    table.locator("thead th").first.locator("button").click()
    names = table.locator("tbody th").evaluate_all("cells => cells.map(cell => cell.firstChild.textContent)")
    batches = [match[1] for name in names if (match := re.fullmatch(r"var-d16 b(\d+) optimized float32 cpu ?", name))]
    assert batches == ["1", "2", "16", "64"]


def test_the_answer_is_the_first_thing_on_the_page(shown: Any) -> None:
    """Sentence, findings, picture and summary come before facts and sections, in the order of reading, unfolded."""
    parts = [".lead", ".findings li", "#figure-quality-throughput", "#answer table", ".facts", "nav", "#results"]
    tops = [shown.locator(part).first.bounding_box()["y"] for part in parts]
    assert tops == sorted(tops) and tops[1] < 900
    assert shown.locator("#answer details").count() == 0


def test_sections_fold_and_a_link_opens_what_it_leads_to(page: Any) -> None:
    assert page.locator("#results table").is_visible() and not page.locator("#memory table").first.is_visible()
    # A browser tells of a new address only after the click has returned.
    page.locator("nav a", has_text="Memory").click()
    page.locator("#memory table").first.wait_for(state="visible")
    page.locator("#results > details > summary").click()
    assert not page.locator("#results table").is_visible()
    link = page.locator(".findings a[href^='#case-']").first
    target = link.get_attribute("href")
    link.click()
    page.locator(f"{target}").wait_for(state="visible")


def test_rows_are_filtered_by_flag(page: Any) -> None:
    box, rows = page.locator("#results .filter"), page.locator("#results table tbody tr")
    total = rows.count()
    box.locator("select[name=random_weights]").select_option("with")
    shown = page.locator("#results table tbody tr:not([hidden])")
    assert 0 < shown.count() < total and all("random_weights" in text for text in shown.all_inner_texts())
    assert box.locator("output").inner_text() == f"{shown.count()} of {total} rows"
    box.locator("select[name=steady]").select_option("without")
    assert all("steady" not in text.split() for text in shown.all_inner_texts())
    for name in ("random_weights", "steady"):
        box.locator(f"select[name={name}]").select_option("")
    assert shown.count() == total


def test_a_large_table_lays_out_its_first_rows_and_sorts_and_filters_all(browser: Any, tmp_path: Path) -> None:
    make.write_records(tmp_path / "records.jsonl", [make.record(number=n, batch=1 + n) for n in range(130)])
    build_report([tmp_path], tmp_path / "report.html")
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    shown, rows = "#results tbody tr:visible", page.locator("#results tbody tr")
    batch = page.locator("#results thead th", has_text="Batch")
    place = batch.evaluate("th => th.cellIndex")
    batches = [int(text) for text in rows.evaluate_all("(rows, at) => rows.map(row => row.cells[at].innerText)", place)]
    assert page.locator(shown).count() == 100 < rows.count() == 130
    batch.locator("button").click()
    batch.locator("button").click()
    assert page.locator(shown).count() == 100
    assert int(page.locator(shown).first.locator("td").nth(place - 1).inner_text()) == max(batches)
    page.locator("#results .filter select").first.select_option("without")
    assert page.locator("#results output").inner_text().endswith(" of 130 rows")
    page.locator("#results .filter select").first.select_option("")
    page.locator("#results button.all").click()
    assert page.locator(shown).count() == 130 and page.locator("#results button.all").count() == 0
    page.close()


def test_printing_opens_closed_details(page: Any) -> None:
    closed = "document.querySelectorAll('details:not([open])').length"
    before = page.evaluate(closed)
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert before > 0 and page.evaluate(closed) == 0
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(closed) == before


def test_a_wide_table_is_printed_across_in_whole_words(page: Any) -> None:
    page.emulate_media(media="print", color_scheme="light")
    style = "cell => [getComputedStyle(cell).overflowWrap, getComputedStyle(cell.closest('.scroll')).page]"
    for cell in ("#results tbody td", "#results tbody th"):
        assert page.locator(cell).first.evaluate(style) == ["break-word", "wide"]
    assert page.locator("#answer table td").first.evaluate(style)[1] == "auto"


def test_a_table_that_scrolls_says_so_by_a_shadow(page: Any) -> None:
    box = page.locator("#results .scroll")
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")
    assert "linear-gradient" in box.evaluate("box => getComputedStyle(box).backgroundImage")


@pytest.fixture(scope="module")
def verdict_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of one record and a verdict."""
    folder = tmp_path_factory.mktemp("verdict")
    make.write_records(folder / "records.jsonl", [make.record()])
    (folder / "verdict.json").write_text(every_verdict().model_dump_json())
    build_report([folder], folder / "report.html")
    return (folder / "report.html").as_uri()


@pytest.mark.parametrize("width", [400, 1280])
def test_a_verdict_fits_its_window_and_begins_with_the_worst(browser: Any, verdict_url: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(verdict_url)
    section = page.locator("#changes")
    assert section.is_visible() and page.evaluate("document.documentElement.scrollWidth") <= width
    first = section.locator("table", has=page.locator("caption", has_text="head over base")).locator("tbody tr").first
    assert "regression" in first.inner_text() and "+31.0 %" in first.inner_text()
    page.close()
