"""The suite that a report prints describes the recorded cases, as read by the loader of suites."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import records as make
import yaml

from arvbench.errors import UnknownName
from arvbench.harness.suites.suite import load_suite
from arvbench.reports.build import build_report
from arvbench.reports.reproduction import SUITE_FILE, reproduction_commands, reproduction_suite
from arvbench.results.schema import CaseConfig, QualityRequest, Record

QUALITY = QualityRequest(protocols=("digits-cnn",), reference="digits", images=100, metrics=("fid", "kid"), seed=3)
CASES = (
    CaseConfig(model="demo/var", weights="demo"),
    CaseConfig(model="demo/var", weights="demo", batch=100, quality=QUALITY, sample_sheet=8, cache="grow"),
    CaseConfig(model="var-d16", weights="random:7", device="cuda:1", dtype="bfloat16", backend="reference"),
    CaseConfig(
        model="var-d16",
        weights="~/my weights/#1: yes",
        settings={"cfg": 4.0, "top_k": None, "top_p": 1e-5, "more_smooth": True, "uint8_rule": "no", "list": [1, 2]},
        repeats=1,
        max_warmup=1,
        threads=2,
        timeout_s=0.5,
        memory_limit_bytes=2**33,
    ),
)


@pytest.fixture
def recorded() -> list[Record]:
    return [
        make.record(number=number).model_copy(update={"case": case, "case_id": str(number)})
        for number, case in enumerate(CASES)
    ]


def loaded(text: str, folder: Path) -> tuple[CaseConfig, ...]:
    (folder / SUITE_FILE).write_text(text)
    return tuple(case.config for case in load_suite(str(folder / SUITE_FILE)).cases)


def test_the_suite_gives_the_recorded_cases_again(recorded: list[Record], tmp_path: Path) -> None:
    assert loaded(reproduction_suite(recorded), tmp_path) == CASES


def test_a_record_that_was_read_from_disk_gives_the_same_suite(recorded: list[Record]) -> None:
    read = [Record.model_validate_json(record.model_dump_json()) for record in recorded]
    assert reproduction_suite(read) == reproduction_suite(recorded)


def test_only_differences_from_the_defaults_are_written(recorded: list[Record]) -> None:
    first, second, *_ = yaml.safe_load(reproduction_suite(recorded))["cases"]
    assert first == {"model": "demo/var", "weights": "demo"}
    assert second["quality"].keys() == {"protocols", "reference", "images", "metrics", "seed"}


def test_a_case_that_was_measured_twice_appears_once(recorded: list[Record], tmp_path: Path) -> None:
    text = reproduction_suite([*recorded, *recorded])
    assert len(yaml.safe_load(text)["cases"]) == len(CASES)


@pytest.mark.parametrize(
    "name", ["x\n- model: demo/var", "'\"\u202e\u2028{}", "*id", "!!python/object:os.system", "on"]
)
def test_a_name_stays_one_string(name: str) -> None:
    text = reproduction_suite([make.record(suite=name, weights=name, settings={name: name})])
    assert text.isascii() and not re.search(r"[^\n -~]", text)
    content = yaml.safe_load(text)
    assert content["description"].endswith(name) and content["name"] == "reproduce"
    assert content["cases"] == [{"model": "var-d16", "weights": name, "settings": {name: name}}]


def test_a_model_called_like_a_pattern_stands_for_no_other(tmp_path: Path) -> None:
    with pytest.raises(UnknownName):
        loaded(reproduction_suite([make.record("*")]), tmp_path)


def test_the_commands_check_out_the_code_only_where_it_is_one_known_commit() -> None:
    here = make.record(number=0, environment=make.environment(git_commit="a" * 40))
    there = make.record(number=1, environment=make.environment(git_commit="b" * 40))
    unknown = make.record(number=2, environment=make.environment(git_commit=None))
    run = f"arvbench run {SUITE_FILE}"
    assert reproduction_commands([here]) == (f"git checkout {'a' * 40}", run)
    assert reproduction_commands([here, there]) == reproduction_commands([here, unknown]) == (run,)
    assert reproduction_commands([unknown]) == (run,)


class Blocks(HTMLParser):
    """Texts of the preformatted blocks of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "pre":
            self.inside = True
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "pre"

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[-1] += data


def test_page_and_markdown_print_a_suite_that_loads(recorded: list[Record], tmp_path: Path) -> None:
    make.write_records(tmp_path / "records.jsonl", recorded)
    build_report([tmp_path], tmp_path / "r.html", tables=[tmp_path / "tables.md"])
    (on_page,) = [text for text in Blocks((tmp_path / "r.html").read_text()).texts if text.startswith("name: ")]
    assert loaded(on_page, tmp_path) == CASES
    block = (tmp_path / "tables.md").read_text().split(f"Save as `{SUITE_FILE}`:")[1].split("Then run:")[0]
    assert loaded("\n".join(line[4:] for line in block.splitlines()), tmp_path) == CASES
