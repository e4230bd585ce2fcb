"""`arvbench run` as a user meets it: exit codes, bad input, interruption and resumption."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
import torch
from run_helpers import environment, failure, warm_processes_of, workers_of, write_suite
from warm_program import Program

from arvbench.harness.cli import main
from arvbench.harness.jobs import EventListener, Finished, Job, Result, result_path
from arvbench.harness.run.engines import ENGINES
from arvbench.harness.run.engines.spawn import SpawnEngine
from arvbench.results.records import read_records
from arvbench.results.schema import Correctness, Environment, Incorrect, Measured, Outcome, Record, Setup, Status

T = TypeVar("T")

CASE = {"model": "demo/var", "weights": "random:0", "threads": 1, "repeats": 1, "max_warmup": 1}


@pytest.fixture
def suite(tmp_path) -> str:
    return str(write_suite(tmp_path / "s.yaml", cases=[CASE | {"batch": [1, 2, 3]}]))


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "run"


class ScriptedEngine(SpawnEngine):
    """Ends every case at once, those of batch 2 with an error; refuses devices as the engines of this machine do."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Job] = []
        self.outcome: Outcome | None = None
        """Outcome of all cases, in place of the scripted ones."""

    @property
    def batches(self) -> list[int]:
        return [job.case.batch for job in self.jobs]

    def environment(self, device: str) -> Environment:
        super().environment(device)
        return environment()

    def run(self, job: Job, listener: EventListener) -> Result:
        self.jobs.append(job)
        status = Status.ERROR if job.case.batch == 2 else Status.SKIPPED
        scripted = failure("<b>made</b> [red]up[/red]", status)
        return Result(outcome=self.outcome or scripted, environment=environment())


@pytest.fixture
def engine(monkeypatch) -> Iterator[ScriptedEngine]:
    """The engine of `arvbench run` in this test."""
    scripted = ScriptedEngine()
    monkeypatch.setitem(globals(), "scripted", lambda: scripted)
    monkeypatch.setattr("arvbench.harness.run.engines.DEFAULT_ENGINE", "scripted")
    with ENGINES.scoped("scripted", f"{__name__}:scripted"):
        yield scripted


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--models", "var-16"], 2, "no model 'var-16'; did you mean 'var-d16'"),
        (["--set", "batch=0"], 2, "batch: Input should be greater than or equal to 1"),
        (["--set", "bacth=1"], 2, "unknown key 'bacth'; did you mean 'batch'"),
        (["--set", "settings.top_k=100000"], 2, "top_k 100000 is larger than the vocabulary"),
        (["--set", "settings.top_p=0"], 2, "top_p"),
        (["--set", "batch"], 2, "write KEY=VALUE"),
        (["--set", "batch=[1"], 2, "--set 'batch': cannot read the value '[1'"),
        (["--weights", "/nope"], 2, "demo/var"),
        (["--weights", "hub"], 2, "demo/var has no official files"),
        (["--weights", "random"], 2, "need a seed"),
        (["--device", "cdua"], 2, "no device 'cdua'"),
        (["--out", "{file}/run"], 2, "cannot write results to"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(suite, out, tmp_path, engine, capsys, arguments, code, message):
    (tmp_path / "file").write_text("in the way")
    arguments = [argument.format(file=tmp_path / "file") for argument in arguments]
    assert main(["run", suite, "--out", str(out), *arguments]) == code
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.startswith("error: ") and len(printed.err.splitlines()) == 1
    assert printed.out == "" and engine.batches == []


def test_a_result_of_another_version_is_named_and_kept(suite, out, engine, capsys):
    out.mkdir()
    left = result_path(out, "0" * 32)
    left.write_text('{"job": {}, "result": {}, "measured_by": "a later version"}')
    main(["run", suite, "--out", str(out), "--no-report"])
    assert f"{left} holds a finished case in the form of another version" in capsys.readouterr().err
    assert left.exists()


def test_a_setting_that_a_model_refuses_is_named_with_its_suite(tmp_path, out, engine, capsys):
    suite = str(write_suite(tmp_path / "s.yaml", cases=[CASE | {"settings": {"top_k": 100_000}}]))
    assert main(["run", suite, "--out", str(out)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {suite}: case 'demo/var")


def test_an_unknown_suite_names_near_misses(capsys):
    assert main(["run", "dmeo"]) == 2
    assert "no suite 'dmeo'; did you mean 'demo' or 'demo-all'?" in capsys.readouterr().err
    assert warm_processes_of(os.getpid()) == [], "what was begun is ended"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_where_there_is_none_fails_at_once_with_the_fix(suite, out, engine, capsys):
    assert main(["run", suite, "--out", str(out), "--device", "cuda"]) == 3
    assert "--device cpu" in capsys.readouterr().err
    assert engine.batches == [] and not out.exists()


def quality_suite(folder: Path, **quality) -> str:
    request = {"protocols": ["digits-cnn"], "reference": "digits", "images": 100} | quality
    return str(write_suite(folder / "q.yaml", cases=[CASE | {"quality": request}]))


@pytest.mark.parametrize(
    ("quality", "message"),
    [
        ({"reference": "/no/such/folder"}, "'/no/such/folder' is neither 'digits' nor"),
        ({"reference": "VIRTUAL_imagenet256_labeled.npz"}, "fetch it from https://openaipublic.blob"),
        ({"protocols": ["torch-fidelity"]}, "--inception-weights"),
        ({"protocols": ["adm-v1", "clip-fid"]}, "clip-vit-b-32"),
        ({"protocols": ["adm"]}, "no protocol 'adm'; did you mean 'adm-v1'"),
        ({"metrics": ["fdi"]}, "no metric of digits-cnn 'fdi'; did you mean 'fid'"),
    ],
)
def test_a_missing_file_of_the_quality_request_fails_before_any_case(
    tmp_path, out, engine, capsys, monkeypatch, quality, message
):
    inception = tmp_path / "inception.pth"
    inception.write_bytes(b"not read here")
    monkeypatch.setenv("ARVBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for variable in ("ARVBENCH_INCEPTION", "ARVBENCH_CLIP_VIT_B_32", "ARVBENCH_REFERENCES", "ARVBENCH_DOWNLOAD"):
        monkeypatch.delenv(variable, raising=False)
    given = ["--inception-weights", str(inception)] if "adm-v1" in quality.get("protocols", ()) else []
    assert main(["run", quality_suite(tmp_path, **quality), "--out", str(out), *given]) == 2
    assert message in capsys.readouterr().err
    assert engine.batches == [] and not out.exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("clip-vit-b-23=x.pt", "did you mean 'clip-vit-b-32'"),
        ("clip-vit-b-32", "NAME=PATH"),
    ],
)
def test_extractor_weights_that_make_no_sense_are_refused(tmp_path, out, engine, capsys, option, message):
    assert main(["run", quality_suite(tmp_path), "--out", str(out), "--extractor-weights", option]) == 2
    assert message in capsys.readouterr().err and engine.batches == []


def test_weights_of_extractors_reach_the_job(tmp_path, out, engine):
    files = {name: tmp_path / f"{name}.pt" for name in ("inception", "clip-vit-b-32")}
    for path in files.values():
        path.write_bytes(b"not read here")
    suite = quality_suite(tmp_path, protocols=["torch-fidelity", "clip-fid"])
    main([
        "run", suite, "--out", str(out), "--no-report", "--inception-weights", str(files["inception"]),
        "--extractor-weights", f"clip-vit-b-32={files['clip-vit-b-32']}",
    ])  # fmt: skip
    assert [job.extractor_files for job in engine.jobs] == [files]


def test_a_changed_recipe_runs_and_an_unknown_one_does_not(tmp_path, out, engine, capsys):
    suite = str(write_suite(tmp_path / "r.yaml", cases=[CASE | {"model": "var-d16", "recipe": "official"}]))
    assert main(["run", suite, "--out", str(out), "--set", "recipe=offical"]) == 2
    assert "no recipe of var-d16 'offical'; did you mean 'official'" in capsys.readouterr().err
    assert main(["run", suite, "--out", str(out), "--no-report", "--set", "settings.cfg=2", "--json"]) == 1
    (record,) = json.loads(capsys.readouterr().out)
    assert record["case"]["recipe"] == "official" and record["case"]["dtype"] == "float32"
    assert record["case"]["settings"] == {"cfg": 2, "top_k": 900, "top_p": 0.96, "more_smooth": False}


def test_one_bad_case_does_not_end_the_run_and_gives_exit_code_1(suite, out, engine, capsys):
    assert main(["run", suite, "--out", str(out)]) == 1
    printed = capsys.readouterr()
    assert engine.batches == [1, 2, 3]
    assert f"report: {out / 'report.html'}" in printed.out and (out / "report.html").exists()
    assert "[red]up[/red]" in printed.err


def test_json_prints_the_records_and_nothing_else(suite, out, engine, capsys):
    assert main(["run", suite, "--out", str(out), "--json"]) == 1
    records = json.loads(capsys.readouterr().out)
    assert [record["outcome"]["status"] for record in records] == ["skipped", "error", "skipped"]
    assert [record["record_id"] for record in records] == [r.record_id for r in read_records(out)]


def test_json_is_valid_when_a_case_is_infinitely_wrong(suite, out, engine, capsys):
    setup = Setup(
        model="demo/var", family="var", image_px=32, transformer_parameters=1, tokenizer_parameters=1,
        weights_source="random:0", weights_random=True, weights_sha256={}, settings={}, settings_source="",
        settings_deviations={}, cache_policy="static", kernels={}, attention="", threads=1, plan=(), decode_flops=1,
    )  # fmt: skip
    correctness = Correctness(
        judge="finite logits",
        images=1,
        max_abs_diff=math.inf,
        tolerance=0.0,
        equal_tokens=0.0,
        required_equal_tokens=1.0,
        passed=False,
    )
    engine.outcome = Incorrect(setup=setup, correctness=correctness)
    assert main(["run", suite, "--out", str(out), "--json", "--set", "batch=[1,2]"]) == 1

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    records = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert [record["outcome"]["correctness"]["max_abs_diff"] for record in records] == ["Infinity"] * 2
    assert Record.model_validate(records[0]).outcome.correctness.max_abs_diff == math.inf


def test_finished_cases_are_reused_by_default(suite, out, engine):
    base = ["run", suite, "--out", str(out), "--no-report"]
    main(base)
    main(base)
    assert engine.batches == [1, 2, 3]
    main([*base, "--fresh", "--set", "batch=1"])
    assert engine.batches == [1, 2, 3, 1]
    main([*base, "--retry-failed", "--set", "batch=2"])
    assert engine.batches == [1, 2, 3, 1, 2]
    assert not (out / "report.html").exists()


def test_a_cut_records_file_is_reported_and_older_records_are_reused(suite, out, engine, capsys):
    base = ["run", suite, "--out", str(out), "--no-report"]
    main(base)
    records = out / "records.jsonl"
    records.write_bytes(records.read_bytes()[:-40])
    capsys.readouterr()
    main(base)
    assert engine.batches == [1, 2, 3, 3]
    assert "was cut" in " ".join(capsys.readouterr().err.split())
    assert len(read_records(out)) == 3


@pytest.fixture
def start(programs) -> Callable[..., Program]:
    return lambda *arguments: programs.start("-m", "arvbench", *arguments)


def wait_for(condition: Callable[[], T], seconds: float = 120) -> T:
    """Return the first true value of the condition."""
    deadline = time.monotonic() + seconds
    while not (met := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return met


def gone(worker: psutil.Process) -> bool:
    return not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_ctrl_c_and_kill_lose_nothing_and_the_same_command_resumes(start, suite, out):
    command = ["run", suite, "--out", str(out), "--no-report", "--set", "batch=[1,2]"]

    run = start(*command)
    (worker,) = wait_for(
        lambda: (out / "records.jsonl").exists() and len(read_records(out)) == 1 and workers_of(run.pid)
    )
    (warm,) = warm_processes_of(run.pid)
    run.send_signal(signal.SIGINT)
    _, printed = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "1 record(s) in" in printed and "Run the same command again" in printed
    assert gone(worker) and gone(warm)
    (first,) = read_records(out)

    run = start(*command)
    (worker,) = wait_for(lambda: workers_of(run.pid))
    (warm,) = warm_processes_of(run.pid)
    run.kill()
    run.communicate(timeout=60)
    wait_for(lambda: gone(worker) and gone(warm), seconds=20)
    assert list(read_records(out)) == [first]

    run = start(*command, "--json")
    out_text, err_text = run.communicate(timeout=300)
    assert run.returncode == 0, err_text
    records = json.loads(out_text)
    assert [record["case"]["batch"] for record in records] == [1, 2]
    assert records[0]["record_id"] == first.record_id
    assert "already measured" in err_text
    assert [r.record_id for r in read_records(out)] == [record["record_id"] for record in records]


def test_ctrl_c_between_speed_and_quality_ends_all_workers_and_keeps_the_speeds(start, tmp_path, out):
    request = {"protocols": ["digits-cnn"], "reference": "digits", "images": 260, "metrics": ["label-accuracy"]}
    case = CASE | {"model": "demo/nar", "weights": "demo", "batch": [20, 26], "quality": request | {"bootstrap": 0}}
    command = ["run", str(write_suite(tmp_path / "s.yaml", cases=[case])), "--out", str(out), "--no-report"]

    def speeds() -> list[Path]:
        return sorted(out.glob(".result-*.json"))

    run = start(*command)
    workers = wait_for(lambda: len(speeds()) == 2 and list(out.glob("features/*/*")) and workers_of(run.pid))
    run.send_signal(signal.SIGINT)
    _, printed = run.communicate(timeout=60)
    assert run.returncode == 130 and "0 record(s) in" in printed and all(gone(worker) for worker in workers)
    kept = [Finished.model_validate_json(path.read_bytes()) for path in speeds()]
    assert [half.job.part for half in kept] == ["speed", "speed"]

    run = start(*command, "--json")
    text, printed = run.communicate(timeout=300)
    assert run.returncode == 0, printed
    records = json.loads(text)
    timed = [Measured.model_validate(record["outcome"]).timings for record in records]
    assert sorted(timed, key=str) == sorted((half.result.outcome.timings for half in kept), key=str)
    assert all(record["outcome"]["quality"] for record in records)
    assert sorted(path.name for path in out.iterdir()) == ["records.jsonl"]
