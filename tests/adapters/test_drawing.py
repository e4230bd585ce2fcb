"""Every family draws by the operation `guided_sample` where it may, and gets the tokens that operators draw."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from interpreted import run_interpreted
from sampling_calls import Steps, same_tokens
from tape import TapeCapture
from tiny_models import TOKEN_GRID_FAMILIES, tiny_token_grid

from arvbench.adapters.call import SilentObserver
from arvbench.adapters.editing import KnownPixels
from arvbench.adapters.loading import build_sampler, load_sampler
from arvbench.adapters.sampling import PerImageNoise, UpstreamNoise
from arvbench.errors import UserError
from arvbench.harness.measure.correctness import check_correctness
from arvbench.harness.measure.integrity import FreshNoise
from arvbench.kernels.dispatch import select
from arvbench.kernels.guided_sample.reference import guided_sample

FAMILIES = ["var", "mvar", "hmar", "flexvar", "llamagen", "nar", "par"]
every_family = pytest.mark.parametrize("family", FAMILIES)
FILTERS = {"top_k": 20, "top_p": 0.8}
LABELS = [3, 7]


class Kernel:
    """The operation, with a count of its calls; `shift` makes it wrong."""

    def __init__(self, shift=0):
        self.calls, self.shift = 0, shift

    def __call__(self, *operands):
        self.calls += 1
        draw = guided_sample(*operands)
        return draw._replace(ids_Bl=(draw.ids_Bl + self.shift) % operands[0].shape[-1])


def load(family, kernel=None):
    if family in TOKEN_GRID_FAMILIES:  # 16 tokens draw as the 64 of the demo models do
        spec = tiny_token_grid(family, num_classes=10)
        sampler = build_sampler(spec, weights="random:1", backend="optimized")
    else:
        sampler = load_sampler(f"demo/{family}", weights="demo", backend="optimized")
    if kernel is not None:
        sampler.use_kernels(select("optimized", "cpu").replacing("guided_sample", kernel, name="triton"))
    return sampler


@cache
def plain_sampler(family):
    """The sampler that draws by operators; no test changes it."""
    return load(family)


def draw(sampler, settings, **options):
    return sampler.sample(LABELS, settings, **{"noise": PerImageNoise(1, [5, 6]), **options})


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        *((family, {}) for family in FAMILIES),
        *((family, FILTERS) for family in FAMILIES),
        ("hmar", {"mask_schedule": "demo"}),
        ("hmar", {"mask_schedule": "demo-fine", **FILTERS}),
        ("flexvar", {"invalid_ids": (3, 7, 11), **FILTERS}),
        ("flexvar", {"invalid_ids": tuple(range(1, 256)), "cfg_style": "constant", "cfg": 0}),
        ("flexvar", {"cfg_style": "constant", "cfg": 1.5}),
        ("flexvar", {"max_pn": 4, "scales": (1, 2, 3, 9)}),
        ("llamagen", {"temperature": 0.7, "cfg_interval": 9, **FILTERS}),
        ("par", {"cfg": 1.0, "top_k": 1}),
        ("nar", {"cfg_interval": 0}),
        ("var", {"cfg": 0}),
    ],
)
def test_the_operation_draws_the_tokens_that_operators_draw(family, changes):
    kernel = Kernel()
    plain, fused = plain_sampler(family), load(family, kernel)
    settings = plain.spec.settings.replace(**changes)
    expected = draw(plain, settings)
    samples = draw(fused, settings)
    assert same_tokens(samples, expected)
    assert torch.equal(samples.images, expected.images)
    assert kernel.calls == len(fused.schedule(settings, batch=2))
    assert fused.kernels["guided_sample"] == "triton"


@every_family
def test_observers_hear_the_logits_that_they_read(family):
    heard, expected, kernel = Steps(), Steps(), Kernel()
    sampler = load(family, kernel)
    draw(plain_sampler(family), sampler.spec.settings, observer=expected)
    draw(sampler, sampler.spec.settings, observer=heard)
    assert kernel.calls == len(heard.outputs)
    for ours, theirs in zip(heard.outputs, expected.outputs, strict=True):
        assert torch.equal(ours.logits, theirs.logits)
        assert torch.equal(ours.logits_pre_cfg, theirs.logits_pre_cfg)


class TimesOnly(SilentObserver):
    reads_logits = False

    def step_end(self, step, output):
        assert len(output.logits) == 0


def test_guided_logits_that_nobody_reads_are_not_computed():
    sampler = load("var", Kernel())
    draw(sampler, sampler.spec.settings, observer=TimesOnly())


class OwnChoice(PerImageNoise):
    def tokens(self, logits, step, *, one_by_one=False):
        return torch.full(logits.shape[:2], 9)


@pytest.mark.parametrize(
    ("noise", "changes", "reason"),
    [
        (UpstreamNoise(0), {}, "UpstreamNoise draws from logits"),
        (OwnChoice(0, [0, 1]), {}, "OwnChoice draws from logits"),
        (PerImageNoise(0, [0, 1]), {"more_smooth": True}, "more_smooth reads the filtered logits"),
    ],
)
def test_what_the_operation_cannot_draw_operators_draw_and_the_record_says_why(noise, changes, reason):
    kernel = Kernel()
    sampler = load("var", kernel)
    samples = draw(sampler, sampler.spec.settings.replace(**changes), noise=noise)
    assert kernel.calls == 0
    assert sampler.kernels["guided_sample"] == f"triton; torch: {reason}"
    assert not isinstance(noise, OwnChoice) or {int(ids.min()) for ids in samples.tokens} == {9}


def test_known_tokens_stay_as_they_are():
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    keep = torch.zeros(2, 32, 32, dtype=torch.bool)
    keep[:, :16] = True
    settings = load("hmar").spec.settings.replace(mask_schedule="demo")
    edited = [draw(load("hmar", k), settings, known=KnownPixels(images=images, keep=keep)) for k in (None, Kernel())]
    assert same_tokens(*edited)


@pytest.mark.parametrize("family", ["var", "nar"])
def test_logits_without_a_softmax_are_an_error_that_names_the_step(family):
    sampler = load(family, Kernel())
    head = sampler.transformer.head if family == "var" else sampler.transformer.output
    with torch.no_grad():
        head.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="logits are not finite in step 0"):
        draw(sampler, sampler.spec.settings)
    assert not check_correctness(sampler, sampler.spec.settings, cache_policy=None, batch=1).passed


def test_noise_for_another_number_of_images_is_refused():
    sampler = load("var", Kernel())
    with pytest.raises(UserError, match="noise was made for 1 images, the call has 2"):
        draw(sampler, sampler.spec.settings, noise=PerImageNoise(0, [0]))


@pytest.mark.parametrize("family", ["hmar", "par"])
@pytest.mark.parametrize(("shift", "passed"), [(0, True), (1, False)])
def test_the_check_of_correctness_judges_the_draws_of_the_operation(family, shift, passed):
    kernel = Kernel(shift)
    sampler = load(family, kernel)
    settings = sampler.spec.settings
    if family == "hmar":
        settings = settings.replace(mask_schedule="demo")
    verdict = check_correctness(sampler, settings, cache_policy=None, batch=2)
    assert kernel.calls > 0
    assert verdict.max_abs_diff <= verdict.tolerance
    assert verdict.passed == passed


def test_draws_of_the_operation_are_counted_as_draws_of_the_call():
    sampler, noise = load("nar", Kernel()), FreshNoise(0, 2)
    draw(sampler, sampler.spec.settings, noise=noise.next())
    noise.check(sampler.schedule(sampler.spec.settings, batch=2))


@pytest.mark.parametrize("family", ["mvar", "par"])
def test_a_recorded_call_draws_by_the_operation(family):
    plain, sampler = plain_sampler(family), load(family, Kernel())
    sampler.use_graphs(TapeCapture)
    settings = plain.spec.settings
    for number in (0, 1):
        noise = PerImageNoise(number, [5, 6])
        assert same_tokens(draw(sampler, settings, noise=noise), draw(plain, settings, noise=noise))
    assert sampler.graphs.report().reason == ""


INTERPRETED = """
import sys, torch
from arvbench.adapters.loading import build_sampler, load_sampler
from arvbench.adapters.sampling import PerImageNoise
from arvbench.kernels.dispatch import select

kernel, calls = select("optimized", "cpu", "interpreter").operations["guided_sample"], []

def counted(*operands):
    calls.append(operands)
    return kernel(*operands)

for family in sys.argv[1:]:
    drawn = []
    operators = select("optimized", "cpu")
    for kernels in (operators, operators.replacing("guided_sample", counted, name="triton")):
        sampler = load_sampler(f"demo/{family}", weights="demo", backend="optimized")
        sampler.use_kernels(kernels)
        drawn.append(sampler.sample([3], sampler.spec.settings, noise=PerImageNoise(1, [5])).tokens)
    for ours, theirs in zip(*drawn, strict=True):
        assert torch.equal(ours, theirs), family
    assert sampler.kernels["guided_sample"] == "triton"
    assert len(calls) == len(sampler.schedule(sampler.spec.settings, batch=1)), family
    calls.clear()
"""


@pytest.mark.parametrize(
    "families", [["nar"], pytest.param([f for f in FAMILIES if f != "nar"], marks=pytest.mark.slow)], ids=" ".join
)
def test_the_triton_kernel_draws_the_same_tokens_in_the_interpreter(programs, families):
    """On equal logits; an id may differ only where rounding decides between two, which here it does nowhere."""
    run_interpreted(programs, INTERPRETED, *families)
