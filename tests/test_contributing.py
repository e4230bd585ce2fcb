"""CONTRIBUTING.md does what it says: for every row, a dummy of that kind is added and appears where it should.

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
from pathlib import Path

import dummies
import numpy as np
import pytest

import arvbench
from arvbench.adapters import PerImageNoise, load_sampler
from arvbench.adapters.cache import CACHE_POLICIES
from arvbench.adapters.registry import MODELS
from arvbench.harness.cli import main
from arvbench.harness.quality.detectors import DETECTORS
from arvbench.harness.quality.extractors.extractor import EXTRACTORS
from arvbench.harness.quality.protocols.protocol import PROTOCOLS
from arvbench.kernels import KERNELS

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
def test_a_model_from_another_distribution(distribution, tmp_path) -> None:
    """It is measured, recorded and shown as any other."""
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
