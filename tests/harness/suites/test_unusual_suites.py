"""Suites that YAML allows and people write have a meaning; those that nobody means, one line with file and place."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from arvbench.errors import UserError
from arvbench.harness.commands.options import comma_list, settings_by_key
from arvbench.harness.suites.suite import MOST_CASES, Suite, check_cases, load_suite
from arvbench.harness.suites.yaml_files import parse_value
from arvbench.results.schema import CaseConfig

HEAD = "name: s\ndefaults: {weights: demo}\ncases:\n"
CASE = HEAD + "  - model: demo/var\n    "


def load(folder: Path, text: str | bytes, sets: Sequence[str] = ()) -> Suite:
    path = folder / "s.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_suite(str(path), overrides=settings_by_key(sets, example="batch=8"))


@pytest.mark.parametrize(
    ("text", "batches"),
    [
        (CASE + "batch: 010\n", [10]),
        (CASE + "batch: [08, 007, +5]\n", [8, 7, 5]),
        (HEAD + "  - &base {model: demo/var, batch: 2}\n  - {<<: *base, batch: 4}\n", [2, 4]),
        (HEAD + "  - &a {model: demo/var}\n  - &b {batch: 3}\n  - {<<: [*a, *b], repeats: 2}\n", None),
        ("\ufeff" + CASE + "batch: 6\n", [6]),
        ((CASE + "batch: 7\n").replace("\n", "\r\n"), [7]),
    ],
    ids=["padded", "padded list", "merge key", "a case that is only a part", "byte-order mark", "windows"],
)
def test_unusual_forms_mean_what_their_writers_mean(text: str, batches: list[int] | None, tmp_path: Path) -> None:
    if batches is None:
        with pytest.raises(UserError, match=r"cases\[1\]: model: Field required"):
            load(tmp_path, text)
    else:
        assert [case.config.batch for case in load(tmp_path, text).cases] == batches


@pytest.mark.parametrize("text", ["batch=010", "settings.top_k=010", "settings={top_k: 010}"])
def test_a_padded_number_on_the_command_line_is_decimal(text: str, tmp_path: Path) -> None:
    (case,) = load(tmp_path, CASE + "repeats: 1\n", [text]).cases
    assert 10 in (case.config.batch, case.config.settings.get("top_k"))


NUMBERS = [name for name, field in CaseConfig.model_fields.items() if field.annotation in (int, float, int | None)]


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize(
    "value", ["yes", "true", "-1", ".inf", ".nan", "9" * 20, "9" * 5000, "2024-01-31", "{a: 1}", "x"]
)
def test_every_number_of_a_case_is_bounded_and_never_a_truth_value(key: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"s\.yaml: .*({key}|line 5)") as refused:
        load(tmp_path, CASE + f"{key}: {value}\n")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize("value", ["yes", ".inf", ".nan", "-1", "[[1]]", "{a: b}", "1.0e400"])
@pytest.mark.parametrize("key", ["cfg", "top_k", "top_p"])
def test_every_sampling_setting_is_a_finite_number(key: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=key):
        check_cases(load(tmp_path, CASE + f"settings: {{{key}: {value}}}\n").cases)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (CASE + "batch: 2024-13-01\n", r"line 5, column 12: '2024-13-01'"),
        (CASE + "batch: !!int 0b2\n", "line 5, column 12"),
        (CASE + "batch: !!float many\n", "line 5, column 12"),
        (CASE + "batch: !!bool 7\n", "line 5, column 12"),
        (CASE + "batch: !!timestamp soon\n", "line 5, column 12"),
        (CASE + "batch: !!binary '%'\n", "batch"),
        (CASE + "batch: !!set {1, 2}\n", "batch"),
        (CASE + "batch: !!python/object/apply:os.system [true]\n", "line 5, column 12: could not determine"),
        (CASE + "? [1, 2]\n    : 3\n", "line 5"),
        (CASE + "3: 4\n", "cases.0.3"),
        (CASE + "batch: 1\n    batch: 2\n", "line 6, column 5: key 'batch' is written twice"),
        (CASE + "settings: 5\n", "settings: Input should be a valid dictionary"),
        (CASE + "settings: {cfg: {a: b}}\n", "cfg"),
        (CASE + "quality: [null]\n    cache: {}\n", "cache"),
        (
            CASE + "quality: {protocols: digits-cnn, reference: digits, images: 9}\n",
            r"such as \[digits-cnn\]",
        ),
        (CASE + "quality: {protocols: [[a]], reference: digits, images: 9}\n", r"quality.protocols.0"),
        (CASE + "quality: {protocols: [digits-cnn], reference: digits, images: 9, metrics: [{a: b}]}\n", "metrics.0"),
        (CASE + "recipe: {a: b}\n", "recipe"),
        (HEAD + "  - {model: {a: b}}\n", "model"),
        (HEAD + "  - {model: [[demo/var]]}\n", "no model"),
        (HEAD + "  - [1, 2]\n", "cases.0"),
        (HEAD + "  - {model: demo/var, weights: ~nosuchuser/x}\n", "no such user"),
        (CASE + "weights: random:" + "7" * 5000 + "\n", "need a seed"),
        (CASE + "settings: {cfg: " + "7" * 2000 + "}\n", "cfg"),
        (HEAD + "  - &loop {model: demo/var, settings: {cfg: *loop}}\n", "line 4"),
        ("name: s\ncases: " + "[" * 4000, "line 2.*more than 50 levels"),
        ("name: s\ncases: " + "{a: " * 4000, "line 2.*more than 50 levels"),
        ("- " * 4000, "more than 50 levels"),
        (
            "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)),
            "200,000 values",
        ),
        (b"\xff\xfe\x00n", "cannot read"),
        (b"name: \x00\n", "s.yaml"),
        ("", "a suite is a mapping"),
        ("[]", "a suite is a mapping"),
        ("name: s\ncases: []\n", "cases"),
        ("---\nname: s\n---\nname: t\n", "line 3"),
    ],
    ids=range(35),
)
def test_a_suite_that_means_nothing_is_refused_with_file_and_place(
    text: str | bytes, place: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=place) as refused:
        check_cases(load(tmp_path, text).cases)
    message = str(refused.value)
    assert "\n" not in message and len(message) < 500
    assert "s.yaml" in message or message.startswith("case ")


@pytest.mark.parametrize(
    "sets",
    [
        ["settings=5", "settings.cfg=2"],
        ["settings.cfg=2", "settings=5"],
        ["batch.x=1"],
        ["quality.images=50"],
        ["batch=" + "[" * 900 + "]" * 900],
        ["batch=2024-99-99"],
        ["batch=!!int abc"],
        ["batch=*nothing"],
        ["batch="],
        ["=1"],
        ["batch"],
    ],
)
def test_a_setting_of_the_command_line_that_means_nothing_is_refused(sets: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        load(tmp_path, CASE + "quality: [null]\n", sets)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


def test_a_mapping_and_keys_of_it_on_the_command_line_are_merged(tmp_path: Path) -> None:
    (case,) = load(tmp_path, CASE + "repeats: 1\n", ["settings={top_k: 5}", "settings.cfg=2"]).cases
    assert case.config.settings == {"top_k": 5, "cfg": 2}


@pytest.mark.parametrize("texts", [[""], [","], [" , ", ""]])
def test_an_option_without_a_name_is_not_taken_for_the_absent_option(texts: list[str]) -> None:
    with pytest.raises(UserError, match="takes names got none"):
        comma_list(texts)
    assert comma_list(None) == comma_list([]) == ()


def test_lists_whose_product_is_too_large_are_counted_and_not_made(tmp_path: Path) -> None:
    numbers = ",".join(map(str, range(1, 1001)))
    axes = "".join(f"    {key}: [{numbers}]\n" for key in ("repeats", "max_warmup", "threads"))
    begin = time.process_time()
    with pytest.raises(UserError, match=r"cases\[0\]: stands for 1,000,000,000 cases \(1,000 repeats x"):
        load(tmp_path, HEAD + "  - model: demo/var\n" + axes)
    with pytest.raises(UserError, match=f"at most {MOST_CASES:,}"):
        load(tmp_path, HEAD + f"  - model: demo/var\n    batch: [{numbers}]\n" * 11)
    assert time.process_time() - begin < 60


def test_equal_cases_stand_once_whatever_the_order_and_the_type_of_their_numbers(tmp_path: Path) -> None:
    cases = ["{top_k: 5, cfg: 2}", "{cfg: 2.0, top_k: 5}", "{cfg: 2.5, top_k: 5}"]
    suite = load(tmp_path, HEAD + "".join(f"  - {{model: demo/var, settings: {case}}}\n" for case in cases))
    assert [case.config.settings["cfg"] for case in suite.cases] == [2, 2.5]


@pytest.mark.fuzz
@given(st.binary(max_size=300))
def test_any_bytes_are_a_suite_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    check(tmp_path_factory, content)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from([*CaseConfig.model_fields, "name", "cases", "defaults", "<<"])
CASES = st.dictionaries(KEYS, VALUES | st.sampled_from(["demo/var", "demo/*", "official", "digits"]), max_size=4)


@pytest.mark.parametrize("entry", [
    {"kernels": {"\n": None}}, {"kernels": {"a\u2028b": 1}}, {"x\ny": 1}, {"x" * 5000: 1}, {"capacity": {"\r": 1}},
    {"quality": {"protocols": "a\nb", "reference": "digits"}}, {"settings": {"\x85": {"\n": 1}}}, {"model": "a\nb"},
    {"cache": "a\nb"}, {"method": "a\nb"}, {"search": {"objective": "a\nb", "over": {"\n": [1]}, "budget": 1}},
])  # fmt: skip
def test_line_breaks_in_keys_and_values_stay_in_the_line(entry, tmp_path_factory):
    suite = {"name": "s", "cases": [{"model": "demo/var", "weights": "demo"} | entry]}
    check(tmp_path_factory, yaml.safe_dump(suite).encode())


@pytest.mark.fuzz
@given(st.dictionaries(KEYS, VALUES | CASES | st.lists(CASES, max_size=2), max_size=4), CASES)
def test_any_values_are_a_suite_or_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, suite: dict[str, object], case: dict[str, object]
) -> None:
    entry = {"model": "demo/var", "weights": "demo"} | case
    check(tmp_path_factory, yaml.safe_dump({"name": "s", "cases": [entry]} | suite).encode())


@pytest.mark.fuzz
@given(st.text(alphabet=st.sampled_from("{}[]&*!|>'\"%@`#,:?-<= \n\t0189abc.~\\")))
def test_any_value_of_the_command_line_is_read_or_refused(text: str) -> None:
    try:
        parse_value(text)
    except UserError as error:
        assert "\n" not in str(error)


def check(folders: pytest.TempPathFactory, content: bytes) -> None:
    path = folders.getbasetemp() / "fuzz.yaml"
    path.write_bytes(content)
    try:
        check_cases(load_suite(str(path)).cases[:2])
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
