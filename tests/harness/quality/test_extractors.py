"""The table of extractors: cheap to list, one registration per process, every entry keeps the same promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

import arvbench
from arvbench.harness.quality import digits_cnn
from arvbench.harness.quality.extractors import EXTRACTORS, load_extractor


def test_listing_the_table_imports_neither_torch_nor_torch_fidelity():
    code = (
        "import sys; from arvbench.harness.quality.extractors import EXTRACTORS; print(*EXTRACTORS); "
        "assert not {'torch', 'torch_fidelity', 'torchvision', 'sklearn'} & set(sys.modules)"
    )
    environment = {"PYTHONPATH": str(Path(arvbench.__path__[0]).parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["digits-cnn", "inception"]


@pytest.mark.parametrize("name", list(EXTRACTORS))
def test_every_entry_can_be_loaded_by_name(name):
    assert callable(EXTRACTORS[name])


def test_digits_cnn_is_registered_with_torch_fidelity_and_loads_twice():
    assert FEATURE_EXTRACTORS_REGISTRY["digits-cnn"] is digits_cnn.DigitsCnnExtractor
    assert load_extractor("digits-cnn").sha256 == load_extractor("digits-cnn").sha256


def test_layers_come_in_the_order_asked():
    network = digits_cnn.DigitsCnnExtractor("digits-cnn", ["logits", "64"])
    logits, features = network(network.get_dummy_input_for_compile())
    assert (logits.shape, features.shape) == ((1, 10), (1, 64))
