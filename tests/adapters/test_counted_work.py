"""Planned FLOPs and traffic of every demo model, against torch's own count of real calls and the weights they read."""

from __future__ import annotations

import pytest
import torch
from sampling_calls import counted_flops, draw
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from arvbench.adapters.call import SilentObserver
from arvbench.adapters.loading import demo_models, load_sampler
from arvbench.adapters.tokenizers.multiscale_vq import Phi, VqVae
from arvbench.kernels import KERNELS


@pytest.fixture(scope="module", params=demo_models())
def sampler(request):
    return load_sampler(request.param, weights="demo")


@pytest.fixture
def settings(sampler):
    """The settings of the model, with few evaluations of a denoiser: a step counts each of them alike."""
    own = sampler.spec.settings
    return own.replace(**{name: 4 for name in ("num_steps", "map_steps") if hasattr(own, name)})


def test_the_count_is_that_of_torchs_own_counter():
    sampler = load_sampler("demo/detailflow", weights="demo")
    settings = sampler.spec.settings.replace(tokens=8)
    with counted_flops() as flops, FlopCounterMode(display=False) as counter:
        draw(sampler, settings=settings, observer=flops)
    assert 0 < sum(flops.counted) == counter.get_total_flops()


class PhiFlops:
    """FLOPs of the phi convolutions between scales, by step: the plan leaves them out."""

    def __init__(self, sampler, flops) -> None:
        self.steps, self._now = [], 0
        for module in sampler.tokenizer.modules():
            if isinstance(module, Phi):
                module.register_forward_hook(self._ran)
        begin, end = flops.step_begin, flops.step_end

        def step_begin(step):
            self._now = 0
            begin(step)

        def step_end(step, output):
            end(step, output)
            self.steps.append(self._now)

        flops.step_begin, flops.step_end = step_begin, step_end

    def _ran(self, module, inputs, output) -> None:
        self._now += 2 * output.numel() * module.weight[0].numel()


def test_flops_of_every_step_and_of_the_decode_are_those_that_torch_counts(sampler, settings):
    with counted_flops() as flops:
        phi = PhiFlops(sampler, flops)
        draw(sampler, settings=settings, observer=flops)
    plan = sampler.schedule(settings, batch=3)
    assert flops.steps == [step.flops + extra for step, extra in zip(plan, phi.steps, strict=True)]
    assert flops.counted[-1] == plan.decode_flops
    assert any(phi.steps) is isinstance(sampler.tokenizer, VqVae)
    assert max(phi.steps) <= 0.1 * max(step.flops for step in plan), "what the plan leaves out is little"


class _Read(TorchFunctionMode):
    """Adds up the weights that matrix products read, each time."""

    def __init__(self) -> None:
        self.bytes = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        for value in args:
            if isinstance(value, torch.nn.Parameter) and value.dim() == 2 and "linear" in func.__name__:
                self.bytes += value.nbytes
        return func(*args, **(kwargs or {}))


class _StepWeights(SilentObserver):
    """Bytes of the matrices that every step reads."""

    def __init__(self) -> None:
        self.bytes = []

    def step_begin(self, step):
        self.mode = _Read()
        self.mode.__enter__()

    def step_end(self, step, output):
        self.mode.__exit__(None, None, None)
        self.bytes.append(self.mode.bytes)


def test_planned_traffic_of_a_step_holds_the_weights_that_it_reads_and_little_more(sampler, settings):
    observer = _StepWeights()
    draw(sampler, settings=settings, observer=observer)
    plan = sampler.schedule(settings, batch=3)
    values = sampler.spec.vocab_size or sampler.spec.latent_dim
    logits = [4 * step.rows * step.new_tokens * values for step in plan]
    cached = max(other.cache_bytes for other in plan)
    for step, read, drawn in zip(plan, observer.bytes, logits, strict=True):
        # Biases, norms and tables beside the matrices; logits of a pass may be fewer than its tokens.
        assert read <= step.bytes_moved <= 1.1 * read + 4 * step.inner_passes * cached + drawn, step.index


def test_the_traffic_of_a_decode_is_its_weights_and_its_images(sampler):
    plan = sampler.schedule(sampler.spec.settings, batch=3)
    weights = sum(p.nbytes for part in sampler.tokenizer.decode_parts() for p in part.parameters())
    assert plan.decode_bytes == weights + 3 * 3 * 32 * 32 * 4 and plan.decode_dtype == "float32"


class _Chain(TorchDispatchMode, SilentObserver):
    """Longest chain of matrix products and attentions in every step; convolutions between scales are not planned."""

    PRODUCTS = ("mm", "scaled_dot_product")

    def __init__(self) -> None:
        super().__init__()
        self.longest, self._longest, self._depth, self._inside = [], 0, {}, False
        self._parted = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func not in self._parted:
            key = "CompositeImplicitAutograd"
            composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)
            self._parted[func] = composite and "scaled_dot_product" not in func.name()
        if self._parted[func]:  # inference mode hands these over whole
            with self:
                return func.decompose(*args, **(kwargs or {}))
        done = func(*args, **(kwargs or {}))
        if not self._inside:
            self._link((args, kwargs), done, any(part in func.name() for part in self.PRODUCTS))
        return done

    def one(self, operation):
        """Count `operation` as one product, whatever it does."""

        def called(*args, **kwargs):
            self._inside = True
            done = operation(*args, **kwargs)
            self._inside = False
            self._link((args, kwargs), done, True)
            return done

        return called

    def _link(self, read, made, counts) -> None:
        before, after = (
            [t.untyped_storage()._cdata for t in tree_leaves(tensors) if isinstance(t, torch.Tensor)]
            for tensors in (read, made)
        )
        depth = max((self._depth.get(storage, 0) for storage in before), default=0) + counts
        self._depth.update(dict.fromkeys(after, depth))
        self._longest = max(self._longest, depth)

    def step_begin(self, step) -> None:
        self._longest, self._depth = 0, {}

    def step_end(self, step, output) -> None:
        self.longest.append(self._longest)


def test_planned_launches_are_the_longest_chain_of_products_and_the_draw(sampler, settings):
    chain = _Chain()
    kernels = sampler._kernels
    scan = chain.one(KERNELS["ssd_scan"].implementations["torch"])
    sampler.use_kernels(kernels.replacing("ssd_scan", scan, name="torch"))
    try:
        with chain:
            draw(sampler, settings=settings, observer=chain)
    finally:
        sampler.use_kernels(kernels)
    plan = sampler.schedule(settings, batch=3)
    assert [longest + 1 for longest in chain.longest] == [step.launches for step in plan]
