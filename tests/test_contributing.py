"""CONTRIBUTING.md is true: for every row, a dummy of that kind is added and appears where it should.

The dummies (dummies.py and dummy_family.py in tests/support) are added as a newcomer adds them, but in a scope of the
table or in a package of another distribution. `ROWS` are the tests by the first column of CONTRIBUTING's table.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import dummies
import numpy as np
import pytest
from identities import RECORDS

import arvbench
from arvbench.adapters import PerImageNoise, load_sampler
from arvbench.adapters.cache import CACHE_POLICIES
from arvbench.adapters.loading import meta_modules
from arvbench.adapters.registry import MODELS
from arvbench.harness.cli import main
from arvbench.harness.commands import VERBS
from arvbench.harness.data import DATA_SETS
from arvbench.harness.quality.detectors import DETECTORS
from arvbench.harness.quality.extractors.extractor import EXTRACTORS
from arvbench.harness.quality.images.open import FORMATS
from arvbench.harness.quality.protocols.protocol import PROTOCOLS
from arvbench.harness.suites.built_in import built_in_suites
from arvbench.harness.suites.recipes import RECIPES_FILE, read_recipes, recipe_for
from arvbench.harness.suites.suite import load_suite
from arvbench.harness.training.trainings import TRAININGS
from arvbench.harness.verify.replays import REPLAYS
from arvbench.kernels import KERNELS
from arvbench.kernels.backends import BACKENDS
from arvbench.reports.content import make_report
from arvbench.reports.html import to_html
from arvbench.reports.markdown import to_tables
from arvbench.reports.sections import SECTIONS, Figure, Section
from arvbench.results.metrics import METRICS, MetricLabel
from arvbench.results.records import read_records

ROOT = Path(__file__).parent.parent
SUPPORT = ROOT / "tests" / "support"
ROWS: dict[str, Callable[..., None]] = {}


def row(kind: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Name the row of CONTRIBUTING's table that a test is about."""

    def register(test: Callable[..., None]) -> Callable[..., None]:
        ROWS[kind] = test
        return test

    return register


def test_every_row_of_the_table_has_a_test() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("| to add |")[2].partition("\n\n")[0]
    kinds = re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE)
    assert set(kinds) - {"---"} == set(ROWS)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("samples") / "samples.npz"
    np.savez(path, arr_0=np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), "uint8"))
    return path


@pytest.fixture
def scope() -> ExitStack:
    """Entries of tables that go when the test ends."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment in which a distribution with two models is installed."""
    folder = tmp_path_factory.mktemp("distribution")
    info = folder / "dummy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dummy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[arvbench.models]\ndummy-model = dummies:MODEL\ndummy-of-a-family = dummy_family:SPEC\n"
    )
    paths = [str(Path(arvbench.__file__).parent.parent), str(SUPPORT), str(folder)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Standard output of a command that succeeds."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


@row("a model of a known family")
def test_a_model_of_a_known_family(scope, capsys) -> None:
    scope.enter_context(MODELS.scoped("dummy-model", "dummies:MODEL"))
    rows = {model["name"]: model for model in json.loads(printed(capsys, "models", "--json"))}
    assert rows["dummy-model"]["family"] == "var"
    sampler = load_sampler("dummy-model", weights="random:0")
    assert sampler.sample([1], sampler.spec.settings, noise=PerImageNoise(0, [0])).images.shape == (1, 3, 32, 32)


@row("a model family")
def test_a_model_family(scope, capsys) -> None:
    scope.enter_context(MODELS.scoped("dummy-of-a-family", "dummy_family:SPEC"))
    rows = {model["name"]: model for model in json.loads(printed(capsys, "models", "--json"))}
    assert rows["dummy-of-a-family"]["caches"] == ["none"]
    sampler = load_sampler("dummy-of-a-family", weights="random:0")
    samples = sampler.sample([0, 1], sampler.spec.settings, noise=PerImageNoise(0, [0, 1]))
    assert samples.images.shape == (2, 3, 32, 32)


@row("a model from another distribution")
def test_a_model_from_another_distribution(distribution) -> None:
    """It is a model as any other; test_example.py measures one."""
    command = [sys.executable, "-P", "-m", "arvbench", "models", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=distribution, timeout=300)
    assert done.returncode == 0, done.stderr
    families = {model["name"]: model["family"] for model in json.loads(done.stdout)}
    assert (families["dummy-model"], families["dummy-of-a-family"]) == ("var", "dummy-family")


@pytest.mark.slow
def test_a_model_from_another_distribution_is_measured(distribution, tmp_path) -> None:
    """It is recorded and shown as any other."""
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        'name: dummy\ncases: [{model: dummy-of-a-family, weights: "random:0", repeats: 1, max_warmup: 1, threads: 1}]\n'
    )
    done = subprocess.run(
        [sys.executable, "-P", "-m", "arvbench", "run", str(suite), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env=distribution,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "records.jsonl").read_text())
    assert record["outcome"]["status"] == "ok"
    assert record["outcome"]["setup"]["family"] == "dummy-family"
    assert "dummy-of-a-family" in done.stdout
    assert "dummy-of-a-family" in (tmp_path / "out" / "report.html").read_text()


@row("a cache policy")
def test_a_cache_policy(scope) -> None:
    scope.enter_context(CACHE_POLICIES.scoped("dummy-cache", "dummies:DummyCache"))
    sampler = load_sampler("demo/var", weights="demo")
    settings, noise = sampler.spec.settings, PerImageNoise(0, [0])
    expected = sampler.sample([3], settings, noise=noise)
    sampled = sampler.sample([3], settings, noise=noise, cache=sampler.make_cache("dummy-cache", settings, batch=1))
    assert all((a == b).all() for a, b in zip(sampled.tokens, expected.tokens, strict=True))


@row("a kernel")
def test_a_kernel(scope) -> None:
    from arvbench.kernels.contract import verified_call
    from arvbench.kernels.dispatch import select

    scope.enter_context(KERNELS.scoped("dummy_kernel", "dummies:KERNEL"))
    assert select("reference", "cpu").names["dummy_kernel"] == "torch"
    call = verified_call(
        KERNELS["dummy_kernel"], "small", dtype=dummies.torch.float32, device="cpu", implementation="triton"
    )
    assert call().shape == (2, 3)


@row("a feature extractor")
@row("an evaluation protocol")
def test_an_extractor_and_a_protocol(scope, samples, capsys) -> None:
    scope.enter_context(EXTRACTORS.scoped("dummy-extractor", "dummies:load_extractor"))
    scope.enter_context(PROTOCOLS.scoped("dummy-protocol", "dummies:PROTOCOL"))
    (number,) = json.loads(printed(capsys, "eval", samples, "--protocol", "dummy-protocol", "--json"))
    assert number["metric"] == "dummy-metric" and len(number["protocol_id"]) == 12
    assert 120 < number["value"] < 135


@row("a detector")
def test_a_detector(scope, samples, capsys) -> None:
    scope.enter_context(EXTRACTORS.scoped("dummy-extractor", "dummies:load_extractor"))
    scope.enter_context(PROTOCOLS.scoped("dummy-protocol", "dummies:PROTOCOL"))
    scope.enter_context(DETECTORS.scoped("dummy-finding", "dummies:detect"))
    out = printed(capsys, "eval", samples, "--protocol", "dummy-protocol")
    assert "has 12 images" in " ".join(out.split()) and "dummy-finding" in out


@row("a metric")
def test_a_metric(scope, samples, capsys, monkeypatch) -> None:
    """It is one more entry of a protocol's tuple, and is shown under its own name until it has a label."""
    from arvbench.reports.tables.quality import metric_label

    scope.enter_context(EXTRACTORS.scoped("dummy-extractor", "dummies:load_extractor"))
    scope.enter_context(PROTOCOLS.scoped("dummy-protocol", "dummies:PROTOCOL"))
    scope.enter_context(DATA_SETS.scoped("dummy-images", "dummies:DummyImages"))
    more = replace(dummies.PROTOCOL, metrics=(*dummies.PROTOCOL.metrics, dummies.COMPARISON))
    monkeypatch.setattr(dummies, "PROTOCOL", more)
    out = printed(capsys, "eval", samples, "--protocol", "dummy-protocol", "--reference", "dummy-images", "--json")
    brightness, comparison = json.loads(out)
    assert (brightness["metric"], comparison["metric"]) == ("dummy-metric", "dummy-comparison")
    assert metric_label("dummy-comparison") == "dummy-comparison"
    monkeypatch.setitem(METRICS, "dummy-comparison", MetricLabel("Distance", "lower"))
    assert metric_label("dummy-comparison") == "Distance"


@row("a data set")
def test_a_data_set(scope, samples, capsys) -> None:
    """It is a reference by its name, and statistics can be made from it."""
    scope.enter_context(EXTRACTORS.scoped("dummy-extractor", "dummies:load_extractor"))
    scope.enter_context(PROTOCOLS.scoped("dummy-protocol", "dummies:COMPARING"))
    scope.enter_context(DATA_SETS.scoped("dummy-images", "dummies:DummyImages"))
    out = printed(capsys, "eval", samples, "--protocol", "dummy-protocol", "--reference", "dummy-images", "--json")
    (number,) = json.loads(out)
    assert "against dummy-images" in number["description"], number


@row("a kind of sample file")
def test_a_kind_of_sample_file(scope, tmp_path, capsys) -> None:
    scope.enter_context(EXTRACTORS.scoped("dummy-extractor", "dummies:load_extractor"))
    scope.enter_context(PROTOCOLS.scoped("dummy-protocol", "dummies:PROTOCOL"))
    scope.enter_context(FORMATS.scoped(".raw16", "dummies:open_raw"))
    (tmp_path / "samples.raw16").write_bytes(bytes([10]) * (2 * 16 * 16 * 3))
    (number,) = json.loads(
        printed(capsys, "eval", tmp_path / "samples.raw16", "--protocol", "dummy-protocol", "--json")
    )
    assert (number["value"], number["n_samples"]) == (10.0, 2)


@row("a backend")
def test_a_backend(monkeypatch, tmp_path) -> None:
    """It is a backend of samplers and of suites; by default it takes the cache policy of the optimized one."""
    monkeypatch.setitem(BACKENDS, "dummy-backend", dummies.BACKEND)
    sampler = load_sampler("demo/var", weights="random:0", backend="dummy-backend")
    assert set(sampler.kernels.values()) == {"torch"}
    assert sampler.schedule(sampler.spec.settings, batch=1).steps
    suite = tmp_path / "suite.yaml"
    suite.write_text("name: dummy\ncases: [{model: demo/var, weights: demo, backend: dummy-backend}]\n")
    assert load_suite(str(suite)).cases[0].config.backend == "dummy-backend"


@row("an engine")
def test_an_engine(scope, tmp_path) -> None:
    from run_helpers import SilentListener

    from arvbench.harness.run.engines import ENGINES
    from arvbench.harness.run.runner import run_suite
    from arvbench.harness.run.store import RecordStore

    scope.enter_context(ENGINES.scoped("dummy-engine", "dummies:DummyEngine"))
    store = RecordStore(tmp_path)
    records = run_suite(load_suite("demo", models=["demo/var"]), store, ENGINES["dummy-engine"](), SilentListener())
    assert {record.outcome.reason for record in records} == {"a dummy engine runs nothing"}
    assert len(store.records()) == len(records)


@row("a verb")
def test_a_verb(scope, capsys) -> None:
    scope.enter_context(VERBS.scoped("dummy-verb", "dummies:dummy_verb"))
    assert "dummy-verb" in printed(capsys, "--help")
    assert printed(capsys, "dummy-verb", "you") == "hello you\n"


@row("a training")
def test_a_training(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setitem(TRAININGS, "dummy-training", dummies.DummyTraining())
    assert "answer: 42" in printed(capsys, "train", "dummy-training", "--out", tmp_path)
    assert (tmp_path / "dummy.txt").read_text() == "42"


@row("fixtures of a family")
def test_fixtures_of_a_family(monkeypatch, tmp_path, capsys, golden) -> None:
    monkeypatch.setitem(REPLAYS, "dummy-kind", REPLAYS["var"])
    for path in sorted((golden / "recipe").glob("var_tiny_a.*")):
        content = path.read_bytes()
        if path.suffix == ".json":
            fixture = json.loads(content)
            content = json.dumps({**fixture, "kind": "dummy-kind"} if "kind" in fixture else fixture).encode()
        (tmp_path / path.name).write_bytes(content)
    assert "passed" in printed(capsys, "verify", tmp_path / "var_tiny_a.json")


@pytest.fixture
def dummy_sections() -> tuple[Section, ...]:
    """A section of reports and one more, with a table and a figure."""
    return (SECTIONS[0], Section("Dummy section", (dummies.dummy_table, Figure("dummy-figure", dummies.dummy_figure))))


@row("a report section")
@row("a report table")
@row("a report figure")
def test_a_section_a_table_and_a_figure(dummy_sections) -> None:
    report = make_report([read_records(RECORDS)], dummy_sections)
    page, markdown = to_html(report), to_tables(report)
    assert 'id="dummy-section"' in page and "## Dummy section" in markdown
    assert "Dummy caption" in page and "**Dummy caption**" in markdown and "| Dummy column |" in markdown
    assert 'id="figure-dummy-figure"' in page and "The number of records." in page


@row("a suite")
def test_a_suite(tmp_path) -> None:
    (tmp_path / "dummy.yaml").write_text("name: dummy\ncases: [{model: demo/var, weights: demo}]\n")
    assert built_in_suites(tmp_path).keys() == {"dummy"}
    assert load_suite(str(tmp_path / "dummy.yaml")).cases[0].config.model == "demo/var"


@row("an official recipe")
def test_an_official_recipe(tmp_path) -> None:
    """A row of the table is a recipe of its model."""
    lines = RECIPES_FILE.read_text().splitlines(keepends=True)
    var = next(line for line in lines if line.startswith("var-d16,"))
    table = tmp_path / "recipes.csv"
    table.write_text(lines[0] + var.replace("var-d16,", "dummy-model,", 1))
    ((model, recipe),) = read_recipes(table).items()
    assert model == ("dummy-model", "official")
    assert recipe.settings["cfg"] == recipe_for("var-d16").settings["cfg"]


@row("a demo model")
def test_a_demo_model(scope, tmp_path, monkeypatch) -> None:
    """Trained by its line in the table of trainings, sampled from the file that the training wrote."""
    from arvbench.adapters.loading import bundle_name, demo_models
    from arvbench.harness.data.digits import Digits, load_digits_rgb
    from arvbench.harness.training.demo import DemoTraining, save_bundle

    scope.enter_context(MODELS.scoped("demo/dummy", "dummies:DEMO_MODEL"))
    assert "demo/dummy" in demo_models()
    monkeypatch.setitem(TRAININGS, "demo/dummy", DemoTraining(name="demo/dummy", settings=dummies.BRIEF_TRAINING))
    digits = load_digits_rgb()
    few = Digits(images_N3HW=digits.images_N3HW[:8], labels_N=digits.labels_N[:8])
    trained, losses = TRAININGS["demo/dummy"].fit(few, few, device=dummies.torch.device("cpu"))
    assert len(losses["transformer_losses"]) == 1
    file = tmp_path / bundle_name(trained.spec)
    save_bundle(trained, file)
    sampler = load_sampler("demo/dummy", weights=file)
    assert sampler.sample([1], sampler.spec.settings, noise=PerImageNoise(0, [0])).images.shape == (1, 3, 32, 32)


def test_the_plug_in_of_the_page_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    entry = re.search(r'"(mine/[^"]+)" = "([^"]+)"', page)
    assert code is not None and entry is not None
    (tmp_path / "my_models.py").write_text(code[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    with MODELS.scoped(entry[1], entry[2]):
        assert MODELS[entry[1]].name == entry[1]
        assert meta_modules(MODELS[entry[1]])
