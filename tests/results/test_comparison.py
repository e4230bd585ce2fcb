"""Keys of comparisons: equal for what compares, whatever the source; different for what does not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import records as make

from arvbench.results.comparison import comparison_key, hardware_class
from arvbench.results.schema import Record, Status


def record(**options: Any) -> Record:
    return make.record("demo/var", **options)


KEY = comparison_key(record())


@pytest.mark.parametrize(
    "same",
    [
        {"number": 7},
        {"launch": 3, "launches": 8},
        {"repeats": 9, "max_warmup": 3, "timeout_s": 9, "memory_limit_bytes": 2**30},
        {"quality": make.quality_numbers(np.random.default_rng(0))},
        {"environment": make.environment(source_sha256="6" * 64, git_commit=None, libraries={}, arvbench_version="9")},
        {"environment": make.environment(cpu="another", cores=2)},
        {"suite": "other", "case_id": "another name"},
    ],
)
def test_source_libraries_machine_and_effort_do_not_part_what_is_compared(same: dict[str, Any]) -> None:
    assert comparison_key(record(**same)) == KEY


@pytest.mark.parametrize(
    "other",
    [
        {"weights": "random:1"},
        {"dtype": "bfloat16"},
        {"backend": "reference"},
        {"method": "fastvar"},
        {"kernels": {"adaln": "torch"}},
        {"cache": "grow"},
        {"batch": 2},
        {"threads": 1},
        {"gpu": make.GPU},
        {"settings": {"cfg": 2.0}},
    ],
)
def test_another_case_is_another_key(other: dict[str, Any]) -> None:
    assert comparison_key(record(**other)) != KEY
    assert comparison_key(make.record("demo/mvar")) != KEY


def test_settings_count_as_they_ran_and_not_as_they_were_asked() -> None:
    setup = record().outcome.setup
    asked = record(settings={"cfg": 1.5})  # the official value
    assert asked.outcome.setup.settings == setup.settings and comparison_key(asked) == KEY
    moved = setup.model_copy(update={"settings": setup.settings | {"cfg": 3.0}})
    assert comparison_key(record(setup=moved)) != KEY
    assert comparison_key(record(setup=setup.model_copy(update={"image_width_px": 512}))) != KEY


def test_the_devices_of_one_kind_compare() -> None:
    assert comparison_key(record(gpu=make.GPU, device="cuda:3")) == comparison_key(record(gpu=make.GPU, device="cuda"))


def test_a_key_is_readable_and_survives_the_file() -> None:
    assert json.loads(KEY)["settings"]["cfg"] == 1.5
    again = Record.model_validate_json(record().model_dump_json())
    assert comparison_key(again) == KEY


def test_a_failed_case_compares_with_nothing_and_an_incorrect_one_has_a_key() -> None:
    assert comparison_key(make.failed(Status.OOM, "too large")) == ""
    assert json.loads(comparison_key(make.incorrect()))["model"] == "var-d16"


def test_a_hardware_class_survives_a_reboot_and_names_what_is_bought() -> None:
    hot = {"sm_clock_mhz": 900, "memory_clock_mhz": 1, "temperature_c": 80, "power_w": 1.0, "throttle_reasons": ("x",),
           "driver": "575.99.01"}  # fmt: skip
    cold = hardware_class(make.environment(gpu=make.GPU))
    assert cold == "NVIDIA H200, 140 GiB, driver 575"
    assert hardware_class(make.environment(gpu=make.GPU.model_copy(update=hot), memory_bytes=1, os="later")) == cold
    cpu = hardware_class(make.environment())
    assert cpu == "AMD EPYC 9554, 64 cores"
    assert hardware_class(make.environment(memory_bytes=1, os="later", cpu="AMD  EPYC 9554 ")) == cpu


@pytest.mark.parametrize(
    "change", [{"name": "NVIDIA H200 MIG 1g.18gb"}, {"memory_bytes": 18 * 2**30}, {"driver": "580.1"}, {"driver": None}]
)
def test_another_slice_memory_or_driver_branch_is_another_class(change: dict[str, Any]) -> None:
    classes = {hardware_class(make.environment(gpu=gpu)) for gpu in (make.GPU, make.GPU.model_copy(update=change))}
    assert len(classes) == 2
    assert hardware_class(make.environment(cores=2)) != hardware_class(make.environment())
