"""Provenance: source, libraries, machine, GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from arvbench.errors import HostError, UserError
from arvbench.harness.machine.environment import read_environment, tf32_allowed
from arvbench.harness.machine.nvml import ReplayGpuProbe, probe_gpu, throttle_names
from arvbench.harness.machine.source import digest_of_source, source_sha256


@pytest.fixture
def recording(tmp_path) -> Path:
    """Two readings of one GPU, the second hot; made up, in the form of real ones."""
    cool = {
        "name": "NVIDIA H100",
        "memory_bytes": 85_000_000_000,
        "compute_capability": "9.0",
        "driver": "575.57",
        "sm_clock_mhz": 1980,
        "memory_clock_mhz": 2619,
        "temperature_c": 40,
        "power_w": 120.5,
        "throttle_reasons": [],
    }
    hot = cool | {"sm_clock_mhz": 1200, "temperature_c": 88, "throttle_reasons": ["hardware thermal slowdown"]}
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps([cool, hot]))
    return path


def test_the_environment_names_libraries_machine_and_source():
    this_machine = read_environment(torch.device("cpu"))
    assert this_machine.libraries["torch"] == torch.__version__.partition("+")[0]
    assert this_machine.gpu is None
    assert this_machine.cores >= 1 and this_machine.memory_bytes > 2**28 and this_machine.cpu
    assert this_machine.source_sha256 == source_sha256()
    assert not this_machine.tf32


def test_tf32_follows_the_switches_of_this_process():
    before = torch.get_float32_matmul_precision()
    allowed = {}
    for precision in ("highest", "high", "highest"):
        torch.set_float32_matmul_precision(precision)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            allowed[precision] = tf32_allowed(torch.device("cuda")), tf32_allowed(torch.device("cpu"))
    torch.set_float32_matmul_precision(before)
    assert allowed == {"highest": (False, False), "high": (True, False)}


def test_a_gpu_reading_becomes_part_of_the_environment(recording):
    probe = ReplayGpuProbe(recording)
    first = read_environment(torch.device("cpu"), probe)
    second = read_environment(torch.device("cpu"), probe)
    assert first.gpu.sm_clock_mhz == 1980
    assert second.gpu.throttle_reasons == ("hardware thermal slowdown",)
    with pytest.raises(UserError, match="ended"):
        probe.read()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_a_host_error():
    assert probe_gpu(torch.device("cpu")) is None
    with pytest.raises(HostError, match="no usable GPU"):
        probe_gpu(torch.device("cuda"))


def test_the_gpu_is_read_before_files_are(recording):
    files_read: list[int] = []

    class Probe(ReplayGpuProbe):
        def read(self):
            files_read.append(source_sha256.cache_info().currsize)
            return super().read()

    source_sha256.cache_clear()
    read_environment(torch.device("cpu"), Probe(recording))
    assert files_read == [0] and source_sha256.cache_info().currsize == 1


def test_throttle_reasons_are_words():
    assert throttle_names(0x4 | 0x40) == ("software power cap", "hardware thermal slowdown")
    assert throttle_names(0) == ()


def test_a_gpu_that_is_idle_or_runs_at_its_set_clocks_is_not_throttled():
    idle, application_clocks, display_clocks = 0x1, 0x2, 0x100
    assert throttle_names(idle | application_clocks | display_clocks) == ()
    assert throttle_names(idle | application_clocks | display_clocks | 0x20) == ("software thermal slowdown",)


def package(folder: Path) -> Path:
    for name in (
        "adapters/var.py",
        "harness/run/runner.py",
        "kernels/adaln/triton.py",
        "reports/html.py",
        "__init__.py",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a = 1\n")
    (folder / "adapters" / "demo.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ("adapters/var.py", True),
        ("kernels/adaln/triton.py", True),
        ("adapters/demo.safetensors", True),
        ("__init__.py", True),
        ("reports/html.py", False),
        ("harness/notes.txt", False),
    ],
)
def test_the_source_digest_depends_on_the_files_that_can_change_a_measurement(tmp_path, changed, counts):
    root = package(tmp_path)
    before = digest_of_source(root)
    (root / changed).write_text("a = 2\n")
    assert (digest_of_source(root) != before) is counts


def test_moving_a_file_changes_the_digest(tmp_path):
    root = package(tmp_path)
    before = digest_of_source(root)
    (root / "adapters" / "var.py").rename(root / "adapters" / "hmar.py")
    assert digest_of_source(root) != before
