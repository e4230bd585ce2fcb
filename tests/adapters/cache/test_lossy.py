"""Promises of every lossy cache policy, on every family that can run it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from arvbench.adapters.cache import CACHE_POLICIES
from arvbench.adapters.cache.calibration import Calibration, write_calibration
from arvbench.adapters.cache.linear import LinearCache
from arvbench.adapters.cache.policy import AttentionInput, CacheShape, TokenOrder
from arvbench.adapters.cache.quantised import Fp8Cache, Int8Cache
from arvbench.adapters.cache.request import read_request, write_request
from arvbench.adapters.cache.scalekv import layer_budgets, observation_window
from arvbench.adapters.cache.selecting import best
from arvbench.adapters.call import SilentObserver
from arvbench.adapters.loading import load_sampler
from arvbench.adapters.sampling import PerImageNoise
from arvbench.errors import HostError, UserError

SCALES = ("int8", "fp8", "window:2", "scalekv:0.5,window=4", "scalekv:0.5,window=4,calibration=FILE")
SCALES += ("hack:0.3", "hack:0.3,calibration=FILE", "scalekv:20,window=1,kernel=3,pooling=avgpool")
LINES = ("int8", "fp8", "window:9", "linear:0.4")
RUNS = {
    "demo/var": SCALES,
    "demo/flexvar": ("int8", "window:1", "scalekv:0.5,window=4", "hack:0.3"),
    "demo/hmar": ("fp8", "window:3", "scalekv:0.5,window=4,calibration=FILE", "hack:0.3,calibration=FILE"),
    "demo/llamagen": LINES,
    "demo/par": (*LINES, "linear:30"),
    "demo/nar": ("int8", "window:3"),
}
FULL = {
    "demo/var": ("window:6", "scalekv:1.0", "scalekv:130", "hack:1.0", "hack:1.0,calibration=FILE"),
    "demo/hmar": ("window:6", "scalekv:1.0", "hack:1.0"),
    "demo/llamagen": ("window:64", "linear:1.0"),
    "demo/par": ("window:19", "linear:1.0"),
    "demo/nar": ("window:15",),
}


@pytest.fixture(scope="module")
def samplers():
    """Demo models by name, loaded once."""
    loaded = {}

    def sampler(name):
        if name not in loaded:
            loaded[name] = load_sampler(name, weights="random:0")
        settings = loaded[name].spec.settings
        if hasattr(settings, "kv_cache"):
            settings = settings.replace(kv_cache=True, mask_schedule="none")
        return loaded[name], settings

    return sampler


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory, samplers):
    """Put the path of a calibration file for a model into a policy."""
    folder = tmp_path_factory.mktemp("calibration")

    def policy(text, name):
        sampler, settings = samplers(name)
        shape = sampler.cache_shape("static", settings, batch=1)
        heads = tuple((0,) if layer % 2 else (0, 1) for layer in range(shape.layers))
        path = folder / f"{name.replace('/', '-')}.json"
        path.write_text(
            write_calibration(
                Calibration(
                    model=name,
                    layers=shape.layers,
                    heads=shape.heads,
                    sides=shape.order.steps,
                    drafters={3: (0,), 4: (0, 2), 5: (1,)},
                    contextual=heads,
                    weights=("random:0",),
                )
            )
        )
        return text.replace("FILE", str(path))

    return policy


class Contents(SilentObserver):
    """Bytes that a cache holds after every step, by layer and in all, and the logits of the step."""

    def __init__(self, cache) -> None:
        self.cache, self.live, self.layers, self.logits = cache, [], [], []

    def step_end(self, step, output) -> None:
        self.live.append((step.cache_bytes, self.cache.live_bytes()))
        if CACHE_POLICIES[self.cache.policy.partition(":")[0]].lossy:
            self.layers.append([self.cache.layer_bytes(layer) for layer in range(self.cache.shape.layers)])
        self.logits.append(output.logits.clone())


def run(sampler, settings, policy):
    cache = sampler.make_cache(policy, settings, batch=2)
    seen = Contents(cache)
    sampler.sample([1, 2], settings, noise=PerImageNoise(0, range(2)), cache=cache, observer=seen)
    return cache, seen


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in RUNS.items() for text in texts])
def test_planned_bytes_are_live_bytes_at_every_step_and_layer(samplers, calibrated, name, text):
    sampler, settings = samplers(name)
    policy = calibrated(text, name)
    cache, seen = run(sampler, settings, policy)
    assert all(planned == live for planned, live in seen.live)
    plan = type(cache).plan(cache.shape, read_request(policy).options)
    planned = [[plan.bytes_after(step, layer) for layer in range(cache.shape.layers)] for step in range(len(seen.live))]
    assert seen.layers == planned
    full = sampler.schedule(settings, batch=2, cache="static")
    assert max(live for _, live in seen.live) < full.peak_cache_bytes
    assert cache.allocated_bytes() >= cache.live_bytes() > 0
    assert torch.stack([logits.isfinite().all() for logits in seen.logits]).all()
    # A cache may be used again, and gives the same.
    again = Contents(cache)
    sampler.sample([1, 2], settings, noise=PerImageNoise(0, range(2)), cache=cache, observer=again)
    assert all(torch.equal(a, b) for a, b in zip(seen.logits, again.logits, strict=True))


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in FULL.items() for text in texts])
def test_a_full_budget_is_static_bit_for_bit(samplers, calibrated, name, text):
    sampler, settings = samplers(name)
    _, seen = run(sampler, settings, calibrated(text, name))
    _, static = run(sampler, settings, "static")
    assert all(torch.equal(a, b) for a, b in zip(seen.logits, static.logits, strict=True))
    assert seen.live == static.live


@pytest.mark.parametrize(
    ("name", "policy", "reason"),
    [
        ("demo/var", "window:0", "must be a number of steps in 1..6"),
        ("demo/var", "window:7", "must be a number of steps in 1..6"),
        ("demo/var", "window:many", "must be a number of steps"),
        ("demo/var", "window", "needs a budget, such as window:4"),
        ("demo/var", "window:", "write name, name:budget"),
        ("demo/var", "window:2,2", "write name, name:budget"),
        ("demo/var", "window:2,shape=round", "has no option 'shape'"),
        ("demo/var", "scalekv:0", "must be in 1..130"),
        ("demo/var", "scalekv:0.0", "is neither a number of tokens"),
        ("demo/var", "scalekv:131", "must be in 1..130"),
        ("demo/var", "scalekv:1.5", "neither a number of tokens in 1..130 nor a share"),
        ("demo/var", "scalekv:nan", "neither a number of tokens"),
        ("demo/var", "scalekv:-3", "neither a number of tokens"),
        ("demo/var", "scalekv:0.1", "no room for their window of 16 tokens"),
        ("demo/var", "scalekv:0.5,window=5", "must be a square number"),
        ("demo/var", "scalekv:0.5,window=4,kernel=2", "must be an odd number"),
        ("demo/var", "scalekv:0.5,window=4,pooling=sum", "neither maxpool nor avgpool"),
        ("demo/var", "hack:0.5,observed=0", "must be a whole number from 1 on"),
        ("demo/var", "hack:0.5,calibration=nowhere.json", "cannot read"),
        ("demo/var", "int8:4", "takes no budget and no options"),
        ("demo/var", "static:4", "takes no budget and no options"),
        ("demo/var", "linear:0.5", "runs on: llamagen, par"),
        ("demo/nar", "linear:0.5", "runs on: llamagen, par"),
        ("demo/llamagen", "scalekv:0.5", "runs on: var, flexvar, hmar"),
        ("demo/par", "hack:0.5", "runs on: var, flexvar, hmar"),
        ("demo/mvar", "int8", "it has: history, state; it runs on: var, flexvar"),
        ("demo/llamagen", "linear:0.1", "below 9, one line and the learnt tokens"),
    ],
)
def test_a_policy_that_cannot_run_is_refused_before_anything_runs(name, policy, reason):
    sampler = load_sampler(name, weights="random:0")
    settings = sampler.spec.settings
    for ask in (
        lambda: sampler.check_cache(sampler.spec, policy, settings),
        lambda: sampler.make_cache(policy, settings, batch=1),
        lambda: sampler.schedule(settings, batch=1, cache=policy),
    ):
        with pytest.raises(UserError, match=reason.replace("(", "\\(")):
            ask()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"layers": 5, "contextual": ((),) * 5}, "of another model: 'demo/var' with 5 layers"),
        ({"heads": 4}, "of another model"),
        ({"sides": ((1, 1), (2, 2))}, "not a calibration file"),
        ({"sides": tuple((n, n) for n in (1, 2, 3, 4, 6, 9))}, "of another model"),
        ({"drafters": {9: (0,)}}, "not a calibration file"),
        ({"drafters": {3: (4,)}}, "not in 0..3"),
        ({"contextual": ((0,),)}, "not a calibration file"),
        ({"heads": True}, "not a calibration file"),
        ({"model": "demo/flexvar"}, "of another model: 'demo/flexvar'"),
        ({"weights": ("random:1",)}, "other weights: random:1 of 'demo/var', not random:0"),
        ({"weights": ()}, "its weights are no list of digests"),
    ],
)
def test_a_calibration_file_of_another_model_is_refused(tmp_path, samplers, change, reason):
    sampler, settings = samplers("demo/var")
    right = Calibration(
        model="demo/var",
        layers=4,
        heads=3,
        sides=sampler.sides(settings),
        drafters={4: (0,)},
        contextual=((0,), (), (1,), ()),
        weights=("random:0",),
    )
    path = tmp_path / "calibration.json"
    path.write_text(write_calibration(right))
    for policy in ("hack", "scalekv"):
        sampler.make_cache(
            f"{policy}:0.5,calibration={path}" + (",window=4" * (policy == "scalekv")), settings, batch=1
        )
    path.write_text(write_calibration(dataclasses.replace(right, **change)))
    with pytest.raises(UserError, match=reason):
        sampler.make_cache(f"hack:0.5,calibration={path}", settings, batch=1)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": "arvbench cache calibration 1"}'])
def test_a_file_that_is_no_calibration_is_refused(tmp_path, samplers, text):
    sampler, settings = samplers("demo/var")
    (path := tmp_path / "calibration.json").write_text(text)
    with pytest.raises(UserError, match="is not a calibration file"):
        sampler.check_cache(sampler.spec, f"hack:0.5,calibration={path}", settings)


def test_fp8_needs_the_hardware_for_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    shape = CacheShape(
        layers=1, rows=1, heads=1, head_dim=4, capacity_tokens=2, dtype=torch.float32, device=torch.device("cuda")
    )
    with pytest.raises(HostError, match=r"compute capability 8\.9 on.*this one has 8\.0: take int8"):
        Fp8Cache(shape)


def test_eight_bits_keep_a_token_within_half_a_step_and_zero_as_zero():
    shape = CacheShape(
        layers=1, rows=2, heads=1, head_dim=8, capacity_tokens=3, dtype=torch.float32, device=torch.device("cpu")
    )
    k = torch.randn(2, 1, 3, 8, generator=torch.Generator().manual_seed(0))
    k[0, 0, 1] = 0
    for kind, error in ((Int8Cache, 0.5 / 127), (Fp8Cache, 2**-4)):
        keys, values = kind(shape).extend(0, k, 3 * k)
        scale = k.abs().amax(dim=-1, keepdim=True)
        assert ((keys - k).abs() <= error * scale * 1.0001).all()
        assert ((values - 3 * k).abs() <= 3 * error * scale * 1.0001).all()
        assert keys[0, 0, 1].abs().max() == 0


def test_of_equal_scores_the_token_fed_first_stays():
    scores = torch.tensor([[[1.0, 3.0, 3.0, 3.0, 0.0, 1.0]]])
    assert best(scores, 2).tolist() == [[[1, 2]]]
    assert best(scores, 4).tolist() == [[[0, 1, 2, 3]]]
    assert best(scores, 3, always_T=torch.arange(6) == 4).tolist() == [[[1, 2, 4]]]


def test_the_budgets_of_layers_have_the_mean_that_was_asked_for():
    order = TokenOrder(kind="scales", steps=tuple((n, n) for n in (1, 2, 3, 4, 6, 8)))
    table = layer_budgets(order, 26, {3: (0,), 5: (0, 1)}, layers=4)
    assert sorted(table) == [3, 4, 5]
    assert table[4] == (26,) * 4
    for budgets in table.values():
        assert 26 * 4 - 4 < sum(budgets) <= 26 * 4
    assert table[3][0] > 26 > table[3][1] == 24
    assert table[5][2:] == (13, 13)


def test_the_observation_window_is_spread_over_the_map():
    assert observation_window((8, 8), 16) == [row * 8 + column for row in (0, 2, 4, 6) for column in (0, 2, 4, 6)]
    assert observation_window((6, 6), 4) == [7, 10, 25, 28]
    assert observation_window((3, 3), 16) is observation_window((4, 6), 4) is None


def test_a_line_and_the_class_stay_and_the_most_attended_tokens_with_them():
    order = TokenOrder(kind="lines", steps=((1, 1),) * 7, line_ends=(2, 4))
    shape = CacheShape(
        layers=1,
        rows=1,
        heads=1,
        head_dim=2,
        capacity_tokens=7,
        dtype=torch.float32,
        device=torch.device("cpu"),
        order=order,
    )
    cache = LinearCache.make(shape, {"budget": "4"})
    for token in range(5):
        key = torch.tensor([float(token == 2) * 9, 0.0]).view(1, 1, 1, 2)
        value = torch.full((1, 1, 1, 2), float(token))
        cache.attend(0, AttentionInput(torch.ones(1, 1, 1, 2), key, value))
    # The line of tokens 3 and 4, the class (token 0), and of 1 and 2 the one that the line attended to.
    assert cache._stored[0, (0,)][1][0, 0, :, 0].tolist() == [0, 2, 3, 4]


def test_a_policy_may_be_written_as_a_mapping():
    assert write_request({"policy": "window", "budget": 4}) == "window:4"
    assert write_request({"policy": "scalekv", "budget": 0.1, "window": 4}) == "scalekv:0.1,window=4"
    assert write_request({"policy": "static"}) == "static"
    with pytest.raises(UserError, match="needs policy"):
        write_request({"budget": 4})
