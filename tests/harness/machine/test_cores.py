"""Cores that a process may use."""

from __future__ import annotations

import os

import psutil
import pytest

from arvbench.harness.machine.cores import usable_cores


@pytest.fixture
def machine(monkeypatch):
    """Sixty-four cores, all allowed."""
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 128 if logical else 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(128)), raising=False)


def test_without_limits_it_is_the_physical_cores(machine, tmp_path):
    assert usable_cores(tmp_path) == 64


def test_affinity_limits(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    assert usable_cores(tmp_path) == 3


@pytest.mark.parametrize(
    ("quota", "cores"), [("250000 100000", 2), ("50000 100000", 1), ("max 100000", 64), ("garbage", 64)]
)
def test_a_container_quota_limits(machine, tmp_path, quota, cores):
    (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("400000", 4), ("-1", 64)])
def test_the_older_kind_of_quota_limits(machine, tmp_path, quota, cores):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert usable_cores(tmp_path) == cores
