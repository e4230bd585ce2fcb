"""examples/snake is a whole package: installed beside arvbench, its model is listed, sampled, verified and measured."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import arvbench
from arvbench.adapters import PerImageNoise
from arvbench.adapters.llamagen import DEMO as LLAMAGEN
from arvbench.adapters.loading import build_sampler
from arvbench.adapters.sampler import ModelSpec

EXAMPLE = Path(__file__).parent.parent / "examples" / "snake"
MOST_LINES = 40


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    place = importlib.util.spec_from_file_location("snake_order", EXAMPLE / "snake_order.py")
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module.SPEC


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment with the package installed: module on the path, entry points as pyproject.toml states them."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = tmp_path_factory.mktemp("installed") / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = "\n".join(f"{name} = {value}" for name, value in project["entry-points"]["arvbench.models"].items())
    (info / "entry_points.txt").write_text(f"[arvbench.models]\n{points}\n")
    paths = [str(Path(arvbench.__file__).parent.parent), str(EXAMPLE), str(info.parent)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def draw(sampler, labels: list[int], images: list[int]):
    return sampler.sample(labels, sampler.spec.settings, noise=PerImageNoise(0, images))


def test_the_model_has_no_more_lines_of_code_than_the_page_says() -> None:
    text = (EXAMPLE / "snake_order.py").read_text()
    tree = ast.parse(text)
    strings = [
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    documentation = {number for node in strings for number in range(node.lineno, node.end_lineno + 1)}
    code = [n for n, line in enumerate(text.splitlines(), 1) if line.strip() and n not in documentation]
    assert len(code) <= MOST_LINES, len(code)


def test_it_is_measured_with_every_check_like_a_model_of_the_package(environment, tmp_path) -> None:
    command = ["run", str(EXAMPLE / "snake.yaml"), "--out", str(tmp_path / "out")]
    fewer = ["--set", "backend=optimized", "--set", "batch=2", "--set", "repeats=1", "--set", "max_warmup=1"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "arvbench", *command, *fewer, "--no-control"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (record,) = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    outcome = record["outcome"]
    assert (outcome["status"], outcome["setup"]["family"], len(outcome["setup"]["plan"])) == ("ok", "snake", 64)
    assert outcome["correctness"]["passed"] and outcome["correctness"]["equal_tokens"] == 1
    assert "snake/tiny" in (tmp_path / "out" / "report.html").read_text()


def test_its_samples_follow_from_label_and_image_alone(spec) -> None:
    sampler = build_sampler(spec, weights="random:0")
    together = draw(sampler, [3, 7], [0, 1])
    alone = draw(sampler, [7], [1])
    assert together.images.shape == (2, 3, 32, 32) and together.images.dtype == torch.uint8
    assert all(torch.equal(both[1:], one) for both, one in zip(together.tokens, alone.tokens, strict=True))


def test_its_first_line_is_that_of_llamagen_and_its_second_one_is_turned(spec) -> None:
    """Module names and shapes are LlamaGen's, so equal seeds make equal weights; the orders part after one line."""
    ours = build_sampler(spec, weights="random:0")
    theirs = build_sampler(replace(LLAMAGEN, transformer=spec.transformer), weights="random:0")
    snake, raster = (torch.cat(draw(sampler, [3], [0]).tokens, dim=1)[0] for sampler in (ours, theirs))
    grid = spec.transformer.grid
    assert torch.equal(snake[:grid], raster[:grid]) and not torch.equal(snake, raster)
    assert ours.plan.order_N[grid : grid + 3].tolist() == [2 * grid - 1, 2 * grid - 2, 2 * grid - 3]


def test_one_pass_over_its_tokens_gives_the_logits_that_drew_them(spec) -> None:
    sampler = build_sampler(spec, weights="random:0")
    unguided = sampler.spec.settings.replace(cfg=1.0)
    samples = sampler.sample([3], unguided, noise=PerImageNoise(0, [0]))
    logits_BLV = sampler.teacher_forced(samples.tokens, [3])
    redrawn = torch.cat([PerImageNoise(0, [0]).tokens(logits_BLV[:, n : n + 1], n) for n in range(64)], dim=1)
    assert torch.equal(redrawn, torch.cat(samples.tokens, dim=1))
