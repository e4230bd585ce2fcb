"""Checks of this machine, by trial: libraries, hardware, attention backends, kernels, weights, tools."""

from __future__ import annotations

import itertools
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import psutil
import torch
from huggingface_hub import try_to_load_from_cache
from pydantic import BaseModel, ConfigDict
from torch.nn.attention import SDPBackend, sdpa_kernel

import arvbench
from arvbench.adapters import MODELS
from arvbench.adapters.loading import demo_models, known_specs, load_sampler, meta_modules
from arvbench.adapters.registry import PLUG_INS
from arvbench.adapters.sampler import Checkpoint
from arvbench.errors import ArvbenchError
from arvbench.harness.machine.attention import AttentionRecorder
from arvbench.harness.machine.cores import usable_cores
from arvbench.harness.machine.failures import one_line
from arvbench.harness.machine.installed import LIBRARIES, cpu_name
from arvbench.harness.machine.memory import ProcessMemoryProbe
from arvbench.harness.machine.nvml import NvmlProbe
from arvbench.harness.quality.extractors.weights import WEIGHTS, find_weights

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ATTENTION_BACKENDS = ("MATH", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION")


class Check(BaseModel):
    """One line of the diagnosis."""

    model_config = ConfigDict(frozen=True)

    topic: str
    name: str
    ok: bool | None
    """True when it can be used, False when it cannot; None for a plain fact."""
    detail: str


def diagnose(weights: Path | None = None) -> list[Check]:
    """Return all checks, by topic. `weights` is a folder that may hold official files."""
    return [
        *_software(), *_hardware(), *_attention(), *_kernels(), *_plug_ins(), *_weights(weights), *_extras()
    ]  # fmt: skip


def _software() -> Iterator[Check]:
    yield Check(topic="software", name="arvbench", ok=None, detail=arvbench.__version__)
    yield Check(topic="software", name="python", ok=sys.version_info >= (3, 11), detail=platform.python_version())
    for name in LIBRARIES:
        try:
            yield Check(topic="software", name=name, ok=True, detail=metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Check(topic="software", name=name, ok=False, detail="not installed")


def _hardware() -> Iterator[Check]:
    gib = psutil.virtual_memory().total / 2**30
    yield Check(topic="hardware", name="cpu", ok=None, detail=f"{cpu_name()}, {usable_cores()} usable cores")
    yield Check(topic="hardware", name="memory", ok=None, detail=f"{gib:.1f} GiB")
    probe = ProcessMemoryProbe()
    probe.begin_phase()
    peaks = probe.peak_bytes() is not None
    yield Check(
        topic="hardware",
        name="peak memory by phase",
        ok=peaks,
        detail="the kernel lets a process reset its peak" if peaks else "/proc/self/clear_refs cannot be written",
    )
    if not torch.cuda.is_available():
        yield Check(topic="hardware", name="cuda", ok=False, detail=_why_no_cuda())
        return
    for index in range(torch.cuda.device_count()):
        yield _gpu(torch.device("cuda", index))


def _why_no_cuda() -> str:
    if torch.version.cuda is None:
        return "this torch is built without CUDA: install a CUDA build"
    if not Path("/dev/nvidiactl").exists() and not Path("/proc/driver/nvidia").exists():
        return f"torch is built for CUDA {torch.version.cuda}, but this machine shows no NVIDIA driver"
    return f"torch is built for CUDA {torch.version.cuda}, but finds no usable GPU: see nvidia-smi"


def _gpu(device: torch.device) -> Check:
    gpu = NvmlProbe(device).read()
    driver = gpu.driver or "unknown (NVML does not answer)"
    held_back = f", held back by {', '.join(gpu.throttle_reasons)}" if gpu.throttle_reasons else ""
    return Check(
        topic="hardware",
        name=str(device),
        ok=True,
        detail=f"{gpu.name}, {gpu.memory_bytes / 2**30:.0f} GiB, compute capability {gpu.compute_capability}, "
        f"driver {driver}, CUDA {torch.version.cuda}{held_back}",
    )


def _attention() -> Iterator[Check]:
    devices = [torch.device("cpu"), *([torch.device("cuda", 0)] if torch.cuda.is_available() else [])]
    for device, backend in itertools.product(devices, ATTENTION_BACKENDS):
        if hasattr(SDPBackend, backend):
            yield _try_attention(device, backend)


def _try_attention(device: torch.device, backend: str) -> Check:
    """Call SDPA on a tiny input with this backend alone, and name the kernel that the dispatcher took."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    q = torch.zeros(1, 2, 16, 64, dtype=dtype, device=device)
    name = f"{backend.lower()} on {device.type} ({str(dtype).removeprefix('torch.')})"
    with warnings.catch_warnings(record=True) as caught, sdpa_kernel(getattr(SDPBackend, backend)):
        warnings.simplefilter("always")
        try:
            with torch.inference_mode(), AttentionRecorder() as recorder:
                torch.nn.functional.scaled_dot_product_attention(q, q, q)
        except RuntimeError as error:
            reasons = [str(warning.message) for warning in caught] or [str(error)]
            if "No viable backend" in reasons[0]:
                reasons = [f"torch has no such kernel for {device.type}"]
            return Check(topic="attention", name=name, ok=False, detail=one_line("; ".join(reasons), 240))
    return Check(topic="attention", name=name, ok=True, detail=f"runs as {recorder.description}")


def _kernels() -> Iterator[Check]:
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        yield Check(topic="kernels", name="triton", ok=False, detail="not installed: the PyTorch kernels are used")
        return
    if torch.cuda.is_available():
        yield Check(topic="kernels", name="triton", ok=True, detail=f"{version}, compiles for this GPU")
        return
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    detail = "only in its interpreter (TRITON_INTERPRET=1, for tests)" if interpreted else "needs a GPU"
    yield Check(topic="kernels", name="triton", ok=False, detail=f"{version}, {detail}: the PyTorch kernels are used")


def _plug_ins() -> Iterator[Check]:
    """Import and build the models of other distributions."""
    for name in PLUG_INS:
        try:
            parameters = sum(p.numel() for module in meta_modules(MODELS[name]).values() for p in module.parameters())
            yield Check(topic="plug-ins", name=name, ok=True, detail=f"{parameters:,} parameters")
        except ArvbenchError as error:
            yield Check(topic="plug-ins", name=name, ok=False, detail=one_line(str(error), 400))


def _weights(folder: Path | None) -> Iterator[Check]:
    """Look for weights of demo models, official models and extractors; nothing is downloaded."""
    for name in demo_models():
        try:
            digests = load_sampler(name, weights="demo").weights.sha256
            detail = ", ".join(f"{file} sha256 {digest[:12]}" for file, digest in digests.items())
            yield Check(topic="weights", name=name, ok=True, detail=detail)
        except (ArvbenchError, OSError) as error:
            yield Check(topic="weights", name=name, ok=False, detail=one_line(str(error), 240))
    for name, spec in known_specs():
        if spec.checkpoint is not None:
            yield _official_weights(name, spec.checkpoint, folder)
    for name in WEIGHTS:
        try:
            yield Check(topic="weights", name=f"{name} extractor", ok=True, detail=str(find_weights(name, {})))
        except ArvbenchError as error:
            yield Check(topic="weights", name=f"{name} extractor", ok=False, detail=one_line(str(error), 400))


def _official_weights(name: str, checkpoint: Checkpoint, folder: Path | None) -> Check:
    """Look for both official files of a model in the given folder, then in the Hugging Face cache."""
    repo, files = checkpoint.hub_repo, (checkpoint.transformer_file, checkpoint.tokenizer_file)
    if folder is not None and all((folder / file).is_file() for file in files):
        return Check(topic="weights", name=name, ok=True, detail=f"in {folder}: use --weights {folder}")
    if all(isinstance(try_to_load_from_cache(repo, file), str) for file in files):
        return Check(topic="weights", name=name, ok=True, detail=f"{repo} is in the hub cache: use --weights hub")
    detail = f"not here; {' and '.join(files)} are at huggingface.co/{repo} (random:0 needs none)"
    return Check(topic="weights", name=name, ok=False, detail=detail)


def _extras() -> Iterator[Check]:
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    detail = browser or "none found: reports are written all the same, their browser test is skipped"
    yield Check(topic="extras", name="browser", ok=browser is not None, detail=detail)
    git = shutil.which("git")
    detail = git or "not found: records cannot name the commit they were made with"
    yield Check(topic="extras", name="git", ok=git is not None, detail=detail)
