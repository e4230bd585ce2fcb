"""The scripts of docs/clusters.md are valid, and those for SLURM and torchrun do what the page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import arvbench
from arvbench.harness.cli import command_line, main
from arvbench.results.records import read_records

PAGE = (Path(__file__).parent.parent / "docs" / "clusters.md").read_text()
BLOCKS = {name: text for _, name, text in re.findall(r"^```(\w+) (\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)}
TORCHRUN = """\
#!{python}
import itertools, os, subprocess, sys
options = list(itertools.takewhile(lambda argument: argument.startswith("--"), sys.argv[1:]))
world = int(next(o for o in options if o.startswith("--nproc")).partition("=")[2])
command = sys.argv[1 + len(options):]
for rank in range(world):
    numbers = dict(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    subprocess.run(command, env=os.environ | numbers, check=True)
"""
ARVBENCH = '#!/bin/sh\nexec {python} -m arvbench "$@"\n'
NOTES = '#!/bin/sh\nprintf "%s\\n" "$@" > "$NOTED"\n'
"""An `arvbench` that only writes down its arguments."""


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """Stand-ins for the commands of a cluster, first on the path."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name, text in (("torchrun", TORCHRUN), ("arvbench", ARVBENCH)):
        (bin_folder / name).write_text(text.format(python=sys.executable))
        (bin_folder / name).chmod(0o755)
    package = str(Path(arvbench.__file__).parents[1])
    return os.environ | {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": package}


def run_script(name: str, folder: Path, environment: dict[str, str]) -> None:
    script = folder / f"{name}.sh"
    script.write_text(BLOCKS[name])
    done = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_page_has_all_scripts() -> None:
    assert set(BLOCKS) == {"slurm", "torchrun", "ray", "kubernetes"}


@pytest.mark.parametrize("name", ["slurm", "torchrun"])
def test_shell_scripts_are_valid(name) -> None:
    assert subprocess.run(["bash", "-n"], input=BLOCKS[name], text=True).returncode == 0


def test_yaml_is_that_of_its_kind() -> None:
    cluster, job = yaml.safe_load(BLOCKS["ray"]), yaml.safe_load(BLOCKS["kubernetes"])
    assert cluster["cluster_name"] and cluster["provider"]["type"] == "local" and cluster["head_start_ray_commands"]
    pod = job["spec"]["template"]["spec"]
    assert (job["kind"], job["spec"]["completionMode"]) == ("Job", "Indexed")
    assert f"/{job['spec']['completions']}" in pod["containers"][0]["args"][0]
    mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_commands_have_verbs_and_options_that_exist() -> None:
    root = command_line()
    joined = re.sub(r"\\\n\s*", "", PAGE)
    calls = re.findall(r"arvbench ((?:records )?(?:run|eval|merge|report|ls)) ([^`\n]*--[^`\n]*)", joined)
    assert len(calls) > 5
    for verb, rest in calls:
        command = root
        for name in verb.split():
            command = command.commands[name]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert set(re.findall(r"--[a-z][a-z-]*", rest)) <= known, rest


def test_the_slurm_array_gives_the_numbers_of_one_process(tmp_path, environment, monkeypatch, capsys) -> None:
    """The tasks are calls of `main` with the arguments of the script."""
    (tmp_path / "bin" / "arvbench").write_text(NOTES)
    noted = tmp_path / "arguments"
    samples = tmp_path / "samples.npz"
    np.savez(samples, arr_0=np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), "uint8"))
    shards = tmp_path / "shards"
    asked = {"SAMPLES": samples, "REFERENCE": "digits", "PROTOCOL": "digits-cnn", "DEVICE": "cpu", "SHARDS": shards}
    for task in ("1", "2"):
        array = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "1"}
        run_script(
            "slurm", tmp_path, environment | {k: str(v) for k, v in asked.items()} | array | {"NOTED": str(noted)}
        )
        with monkeypatch.context() as patch:
            for name, value in array.items():
                patch.setenv(name, value)
            assert main(noted.read_text().splitlines()) == 0
    assert main(["merge", str(shards), "--out", str(tmp_path / "whole")]) == 0
    texts = []
    for work in ("whole", "alone"):
        capsys.readouterr()
        request = ["eval", str(samples), "--reference", "digits", "--protocol", "digits-cnn", "--json"]
        assert main([*request, "--work", str(tmp_path / work)]) == 0
        texts.append(json.loads(capsys.readouterr().out))
    assert texts[0] == texts[1]


@pytest.mark.slow  # four programs from nothing; test_engine_contract.py and test_shares.py have ranks in one process
def test_torchrun_measures_every_case_once(tmp_path, environment) -> None:
    case = {"model": "demo/var", "batch": [1, 2], "repeats": 1, "max_warmup": 1, "threads": 1}
    suite = tmp_path / "s.yaml"
    suite.write_text(json.dumps({"name": "made-up", "defaults": {"weights": "demo"}, "cases": [case]}))
    asked = {"SUITE": str(suite), "WEIGHTS": "demo", "OUT": str(tmp_path / "out"), "GPUS": "2"}
    run_script("torchrun", tmp_path, environment | asked)
    assert [r.case.batch for r in read_records(tmp_path / "out" / "all")] == [1, 2]
    assert (tmp_path / "out" / "all" / "report.html").is_file()
