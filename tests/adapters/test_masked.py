"""Masked generation in random order: the split into passes, orders per image, and requests that are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sampling_calls import LABELS, draw, same_tokens
from tiny_models import tiny_himar, tiny_mar

from arvbench.adapters import MODELS
from arvbench.adapters.latents.diffusion import Process, process_of, spaced_numbers, training_process
from arvbench.adapters.latents.masked import DiffusionPass, passes_of
from arvbench.adapters.loading import build_sampler
from arvbench.adapters.sampling import BufferedNoise, PerImageNoise, ReplayTokens, UpstreamNoise
from arvbench.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize(("total", "count"), [(256, 256), (256, 64), (256, 1), (64, 32), (16, 16), (16, 5), (1, 1)])
def test_every_token_is_predicted_in_one_pass(total, count):
    passes = passes_of(total, count)
    assert len(passes) == count and sum(done.predicted for done in passes) == total
    known = [done.known for done in passes]
    assert known == [sum(done.predicted for done in passes[:number]) for number in range(count)]
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0)).unsqueeze(0)
    places = torch.cat([done.predicted_of(order) for done in passes], dim=1)
    assert places.sort().values.tolist() == [list(range(total))]
    for done in passes:
        both = torch.cat((done.known_of(order), done.masked_of(order)), dim=1)
        assert both.sort().values.tolist() == [list(range(total))]


def test_places_of_a_pass_are_in_raster_order():
    order = torch.tensor([[3, 0, 2, 1], [1, 3, 0, 2]])
    first, second = passes_of(4, 2)
    assert (first.predicted_of(order).tolist(), first.masked_of(order).tolist()) == (
        [[1, 2], [0, 2]],
        [[0, 1, 2, 3]] * 2,
    )
    assert (second.known_of(order).tolist(), second.predicted_of(order).tolist()) == (
        [[1, 2], [0, 2]],
        [[0, 3], [1, 3]],
    )


def test_guidance_grows_with_the_share_of_known_tokens_and_counts_one_masked_in_the_last_pass():
    settings = tiny_mar().settings.replace(cfg=3.0)
    strengths = [part.strength(settings, 3.0) for part in passes_of(4, 2)]
    assert strengths == [1 + 2 * 2 / 4, 1 + 2 * 3 / 4]
    constant = settings.replace(cfg_schedule="constant")
    assert [part.strength(constant, 3.0) for part in passes_of(4, 2)] == [3.0, 3.0]


@pytest.mark.parametrize(("make", "change"), [(tiny_mar, {"num_iter": 17}), (tiny_himar, {"pivot_iter": 5}),
                                              (tiny_himar, {"num_iter": 300})])  # fmt: skip
def test_a_pass_that_would_predict_nothing_is_refused(make, change):
    sampler = build_sampler(make(), weights="random:1")
    with pytest.raises(UserError, match=f"{sampler.spec.name}: .* passes over .* tokens: some would predict none"):
        draw(sampler, settings=sampler.spec.settings.replace(**change))


@pytest.mark.parametrize(
    "change",
    [{"num_iter": 0}, {"num_steps": 1}, {"temperature": -1}, {"temperature": float("nan")}, {"cfg_schedule": "cosine"},
     {"last_number": 1000}, {"last_number": 0}, {"num_iter": 2**20}, {"num_iter": 1.5}],
)  # fmt: skip
def test_settings_out_of_range_name_their_key(change):
    for make in (tiny_mar, tiny_himar):
        with pytest.raises(UserError, match=next(iter(change))) as refused:
            make().settings.replace(**change)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("change", [{"cfg": 1.0}, {"re_cfg": 0.5}])
def test_guidance_of_one_phase_alone_is_refused(change):
    sampler = build_sampler(tiny_himar(), weights="random:1")
    with pytest.raises(UserError, match=r"cfg .* and re_cfg .* must both be above 1, or neither"):
        draw(sampler, settings=sampler.spec.settings.replace(**change))


@pytest.mark.parametrize("make", [tiny_mar, tiny_himar])
@pytest.mark.parametrize("policy", ["grow", "static", "window:4", "int8", "scalekv:0.5", "history"])
def test_a_cache_is_refused_with_the_reason(make, policy):
    sampler = build_sampler(make(), weights="random:1")
    expected = f"^{sampler.spec.name} keeps no cache, so policy {policy} does not apply: every pass attends in both"
    with pytest.raises(UserError, match=expected) as refused:
        sampler.make_cache(policy, sampler.spec.settings, batch=1)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="no cache policy 'nonsense'"):
        sampler.make_cache("nonsense", sampler.spec.settings, batch=1)


@pytest.mark.parametrize("name", ["mar-b", "himar-h"])
def test_the_cache_report_of_a_released_model_says_that_nothing_is_kept(name):
    spec = MODELS[name]
    assert spec.sampler.cache_policies() == ("none",)


def test_orders_are_those_of_the_images_in_any_batch():
    together = PerImageNoise(3, range(7)).orders(7, (5, 16), CPU)
    for image in (0, 6):
        alone = PerImageNoise(3, [image]).orders(1, (5, 16), CPU)
        assert all(torch.equal(one[0], all_of[image]) for one, all_of in zip(alone, together, strict=True))
    assert all(row.sort().values.equal(torch.arange(len(row))) for part in together for row in part)
    assert len({tuple(row.tolist()) for row in together[1]}) == 7
    assert not torch.equal(together[1], PerImageNoise(4, range(7)).orders(7, (5, 16), CPU)[1])


def test_a_recorded_call_draws_the_orders_that_it_is_loaded_with():
    noise = PerImageNoise(3, [4, 9])
    buffered = BufferedNoise(noise, CPU)
    buffered.load(noise)
    for size in (4, 16):
        assert torch.equal(buffered.orders(2, (size,), CPU)[0], noise.orders(2, (size,), CPU)[0])


@pytest.mark.parametrize("at_once", [1, 50, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normals_drawn_together_are_those_drawn_one_by_one(at_once, dtype):
    noise, like = PerImageNoise(3, [4, 9]), torch.empty(2, 5, 4, dtype=dtype)
    together = list(noise.normals(like, range(7, 16, 2), at_once=at_once))
    assert [drawn.dtype for drawn in together] == [dtype] * 5
    for step, drawn in zip(range(7, 16, 2), together, strict=True):
        assert torch.equal(drawn, noise.normal(like, step))
        assert torch.equal(drawn[1:], PerImageNoise(3, [9]).normal(like[1:], step))
    assert not torch.equal(together[0], together[1]) and abs(float(torch.stack(together).mean())) < 0.5


def test_official_orders_are_numpys_shuffles_image_by_image():
    np.random.seed(7)
    expected = []
    for _ in range(2):
        for size in (4, 9):
            order = np.arange(size)
            np.random.shuffle(order)
            expected.append(order.tolist())
    drawn = UpstreamNoise(7).orders(2, (4, 9), CPU)
    assert [part[image].tolist() for image in range(2) for part in drawn] == expected
    assert torch.equal(UpstreamNoise(0, order_seed=7).orders(2, (4, 9), CPU)[1], drawn[1])
    assert torch.equal(*(ReplayTokens([]).orders(2, (9,), CPU)[0] for _ in range(2)))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_does_not_take_is_refused(seed):
    with pytest.raises(UserError, match=f"seed {seed} is out of range for random orders: NumPy takes"):
        UpstreamNoise(seed).orders(1, (4,), CPU)


@pytest.mark.parametrize("make", [tiny_mar, tiny_himar])
def test_images_do_not_depend_on_the_size_or_order_of_their_batch(make):
    sampler = build_sampler(make(), weights="random:1", backend="optimized")
    labels = [number % 5 for number in range(32)]
    together = draw(sampler, labels)
    for images in ([5], list(range(7)), list(reversed(range(25, 32)))):
        samples = sampler.sample([labels[i] for i in images], sampler.spec.settings, noise=PerImageNoise(0, images))
        assert same_tokens(samples, [theirs[images] for theirs in together.tokens])


def test_the_last_pass_of_phase_two_sees_what_earlier_ones_settled():
    sampler = build_sampler(tiny_himar(), weights="random:1")
    samples = draw(sampler, LABELS)
    (_, order), (_, passes) = (
        PerImageNoise(0, range(3)).orders(3, (4, 16), CPU),
        sampler.phases(sampler.spec.transformer, sampler.spec.settings),
    )
    changed = samples.tokens[1].clone()
    # A token that the last pass overwrites is not read; one that the pass before settled is.
    changed[0, order[0, 0]] += 1
    noise = [PerImageNoise(0, range(3)) for _ in range(3)]
    plain = sampler.forced_latents(samples.tokens, LABELS, sampler.spec.settings, noise[0])
    masked = sampler.forced_latents((samples.tokens[0], changed), LABELS, sampler.spec.settings, noise[1])
    assert torch.equal(plain[-1], masked[-1])
    changed[0, order[0, -1]] += 1
    known = sampler.forced_latents((samples.tokens[0], changed), LABELS, sampler.spec.settings, noise[2])
    assert not torch.equal(plain[-1][0], known[-1][0]) and torch.equal(plain[-1][1], known[-1][1])
    assert len(passes) == 2


def test_steps_of_the_diffusion_are_evenly_rounded():
    assert spaced_numbers(6, 499) == (0, 100, 200, 299, 399, 499)
    assert spaced_numbers(2) == (0, 999)
    assert process_of(100).numbers[-1] == 999 and len(process_of(100)) == 100


def test_a_process_of_all_steps_is_that_of_training():
    ours, training = Process(range(1000)), training_process()
    index = torch.tensor([0, 1, 500, 999])
    for one, other in zip(ours.at(index), training.at(index), strict=True):
        assert torch.equal(one, other)
    assert float(ours[999].noise) > 0.999 and float(ours[0].signal) > 0.999


def test_the_loss_of_a_perfect_prediction_is_that_of_its_variances_alone():
    process = training_process()
    random = torch.Generator().manual_seed(0)
    data, noise = (torch.randn(2, 5, 4, generator=random) for _ in range(2))
    numbers = torch.tensor([[0, 1, 10, 500, 999]] * 2)
    least = torch.cat((noise, torch.full_like(noise, -1.0)), dim=-1)
    most = torch.cat((noise, torch.ones_like(noise)), dim=-1)
    perfect, wide = process.loss(least, data, noise, numbers), process.loss(most, data, noise, numbers)
    assert perfect[:, 1:].abs().max() < 1e-3  # the posterior itself
    assert (wide[:, 1:] >= perfect[:, 1:] - 1e-4).all() and (perfect[:, 0] > 0).all()
    # The divergence of two normals of one mean is known; the loss states it in bits.
    excess = process.at(numbers).most_log_variance - process.at(numbers).least_log_variance
    expected = 0.5 * (excess - 1 + (-excess).exp()).squeeze(-1) / math.log(2)
    torch.testing.assert_close(wide[:, 1:], expected[:, 1:], atol=1e-4, rtol=1e-3)
    wrong = process.loss(torch.cat((noise + 1, least[..., 4:]), dim=-1), data, noise, numbers)
    assert (wrong > perfect + 0.9).all()


def test_only_masked_tokens_count_in_the_loss():
    random = torch.Generator().manual_seed(0)
    predicted, (data, noise) = torch.randn(2, 3, 8, generator=random), torch.randn(2, 2, 3, 4, generator=random)
    counted = torch.tensor([[True, False, True], [False, True, True]])

    def loss(predicted):
        numbers = torch.tensor([[3, 500, 999]] * 2)
        return DiffusionPass(
            predicted=predicted, data_BLK=data, noise_BLK=noise, numbers_BL=numbers, counted_BL=counted
        ).loss()

    moved = predicted + (~counted).unsqueeze(-1)
    assert torch.equal(loss(moved), loss(predicted))
    assert not torch.equal(loss(predicted + counted.unsqueeze(-1)), loss(predicted))
