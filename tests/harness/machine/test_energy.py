"""Meters: replays of recorded counters, and the ways in which a driver fails."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import fake_nvml
import pytest

from arvbench.harness.machine.energy import NoEnergy, NvmlMeter, RaplMeter, ZeusMeter, gpu_meter


@pytest.fixture(autouse=True)
def no_zeus(monkeypatch):
    monkeypatch.setitem(sys.modules, "zeus", None)
    monkeypatch.setitem(sys.modules, "zeus.monitor", None)


def domain(root: Path, name: str, label: str, uj: int, most: int = 1_000_000) -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "name").write_text(f"{label}\n")
    (folder / "energy_uj").write_text(f"{uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder


def replay(meter: RaplMeter, package: Path, *readings: int) -> float:
    """Return the joules of a window in which the counter had these readings."""
    meter.begin()
    for uj in readings:
        (package / "energy_uj").write_text(str(uj))
        meter.power_w()
    return meter.end()


def test_rapl_counts_packages_and_nothing_twice(tmp_path):
    packages = [domain(tmp_path, "intel-rapl:0", "package-0", 5), domain(tmp_path, "intel-rapl:1", "package-1", 7)]
    for name, label in (("intel-rapl:0:0", "core"), ("intel-rapl-mmio:0", "package-0"), ("intel-rapl:2", "psys")):
        domain(tmp_path, name, label, 0)
    meter = RaplMeter(tmp_path, lambda: 0.0)
    meter.begin()
    packages[0].joinpath("energy_uj").write_text("205")
    packages[1].joinpath("energy_uj").write_text("1007")
    assert meter.end() == pytest.approx(1.2e-3)
    assert "2 processor package(s)" in meter.counts


def test_a_rapl_counter_that_starts_again_at_zero_is_counted_on(tmp_path):
    package, times = domain(tmp_path, "intel-rapl:0", "package-0", 900_000), iter(range(1000))
    meter = RaplMeter(tmp_path, lambda: float(next(times)))
    assert replay(meter, package, 100_000) == pytest.approx(0.2)
    assert replay(meter, package, 900_000, 200_000, 700_000, 50_000) == pytest.approx(0.8 + 0.3 + 0.5 + 0.35)


@pytest.mark.parametrize(("most", "second"), [(0, 1.0), (2**40, 1e-6), (10, 1.0)])
def test_a_rapl_counter_that_goes_backwards_gives_no_number(tmp_path, most, second):
    """No range, more power than any processor takes, a range below the reading."""
    package, times = domain(tmp_path, "intel-rapl:0", "package-0", 900_000, most), iter(range(1000))
    meter = RaplMeter(tmp_path, lambda: next(times) * second)
    with pytest.raises(NoEnergy, match="intel-rapl:0 went backwards"):
        replay(meter, package, 100_000)


def test_rapl_that_is_missing_or_damaged_says_so(tmp_path):
    with pytest.raises(NoEnergy, match="has no RAPL counter"):
        RaplMeter(tmp_path / "none")
    package = domain(tmp_path, "intel-rapl:0", "package-0", 1)
    (package / "energy_uj").write_text("a lot")
    with pytest.raises(NoEnergy, match="holds no number"):
        RaplMeter(tmp_path)
    (package / "energy_uj").unlink()
    with pytest.raises(NoEnergy, match="is missing"):
        RaplMeter(tmp_path)


def test_rapl_without_permission_says_so(tmp_path, monkeypatch):
    domain(tmp_path, "intel-rapl:0", "package-0", 1)
    read = Path.read_text

    def refuse(path: Path, *rest: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(NoEnergy, match="energy_uj cannot be read: Permission denied"):
        RaplMeter(tmp_path)


def driver(monkeypatch, **calls) -> None:
    """Install a driver whose calls return a value, or raise an error with a text."""

    def answer(value):
        def call(*_):
            if isinstance(value, str):
                raise fake_nvml.NVMLError(value)
            return value.pop(0) if isinstance(value, list) else value

        return call

    names = {"energy": "nvmlDeviceGetTotalEnergyConsumption", "power": "nvmlDeviceGetPowerUsage",
             "temperature": "nvmlDeviceGetTemperature"}  # fmt: skip
    answers = {names[name]: answer(value) for name, value in calls.items()}
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=fake_nvml.NVMLError, **answers))


def test_nvml_counts_in_millijoules(monkeypatch):
    driver(monkeypatch, energy=[0, 1_000, 4_500], power=250_000, temperature=40)
    meter = gpu_meter("GPU-1", 0)
    assert type(meter) is NvmlMeter
    meter.begin()
    assert (meter.end(), meter.power_w(), meter.temperature_c()) == (3.5, 250.0, 40)


def test_a_gpu_without_a_counter_has_power_samples_alone(monkeypatch):
    driver(monkeypatch, energy="Not Supported", power=1_000, temperature="Not Supported")
    meter = NvmlMeter("GPU-1")
    meter.begin()
    assert meter.end() is None and meter.counter_j() is None
    assert meter.power_w() == 1 and meter.temperature_c() is None


@pytest.mark.parametrize("text", ["Not Supported", "Insufficient Permissions"])
def test_a_gpu_with_neither_says_why(monkeypatch, text):
    driver(monkeypatch, energy=text, power=text)
    with pytest.raises(NoEnergy, match=f"NVML: {text}"):
        NvmlMeter("GPU-1")


def test_a_mig_slice_has_no_counter():
    with pytest.raises(NoEnergy, match="MIG"):
        NvmlMeter(None)


def test_a_gpu_that_is_lost_or_counts_backwards_gives_no_number(monkeypatch):
    driver(monkeypatch, energy=[0, 5_000, 4_000])
    meter = NvmlMeter("GPU-1")
    meter.begin()
    with pytest.raises(NoEnergy, match="went backwards"):
        meter.end()
    driver(monkeypatch, energy="GPU is lost")
    with pytest.raises(NoEnergy, match="GPU is lost"):
        meter.begin()


def stand_in(joules: float | Exception) -> ModuleType:
    """Return a module like `zeus.monitor`."""

    class ZeusMonitor:
        def __init__(self, gpu_indices: list[int], cpu_indices: list[int]) -> None:
            assert cpu_indices == []
            self.gpu_indices = gpu_indices

        def begin_window(self, key: str) -> None:
            self.key = key

        def end_window(self, key: str) -> SimpleNamespace:
            assert key == self.key
            if isinstance(joules, Exception):
                raise joules
            return SimpleNamespace(time=1.0, gpu_energy={self.gpu_indices[0]: joules})

    module = ModuleType("zeus.monitor")
    module.ZeusMonitor = ZeusMonitor
    return module


def test_zeus_is_used_where_it_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "zeus", ModuleType("zeus"))
    monkeypatch.setitem(sys.modules, "zeus.monitor", stand_in(12.5))
    driver(monkeypatch, energy=0, power=100_000)
    meter = gpu_meter("GPU-1", 3)
    assert isinstance(meter, ZeusMeter) and meter.source == "zeus"
    meter.begin()
    assert meter.end() == 12.5


@pytest.mark.parametrize(("joules", "why"), [(-1.0, "negative"), (RuntimeError("GPU\nlost"), "Zeus: GPU lost")])
def test_zeus_that_fails_gives_no_number(monkeypatch, joules, why):
    monkeypatch.setitem(sys.modules, "zeus", ModuleType("zeus"))
    monkeypatch.setitem(sys.modules, "zeus.monitor", stand_in(joules))
    driver(monkeypatch, energy=0, power=100_000)
    meter = gpu_meter("GPU-1", 0)
    meter.begin()
    with pytest.raises(NoEnergy, match=why):
        meter.end()
