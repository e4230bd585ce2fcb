"""Decoding in bfloat16 and channels last: what it computes, where it is taken, and what a record says of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sampling_calls import same_tokens
from tape import TapeCapture

from arvbench.adapters.decoding import HALF_DECODE, HalfDecoder, decode_in_half
from arvbench.adapters.loading import build_sampler, load_sampler
from arvbench.adapters.methods.request import spec_of
from arvbench.adapters.sampling import PerImageNoise
from arvbench.errors import ContractError
from arvbench.harness.jobs import Job, Part
from arvbench.harness.measure.case import measure_case
from arvbench.harness.measure.correctness import TOLERANCES, image_difference
from arvbench.harness.measure.decoding import choose_decoder
from arvbench.harness.measure.drift import plain_twin
from arvbench.harness.quality.images.live import load_live_source
from arvbench.kernels.backends import Backend
from arvbench.results.schema import CaseConfig

LENIENT = replace(TOLERANCES[torch.float32], images=0.03)
families = pytest.mark.parametrize("family", ["var", "flexvar", "nar"])


def load(family, **options):
    return load_sampler(f"demo/{family}", weights="demo", backend="optimized", **options)


def draw(sampler):
    return sampler.sample([3, 7], sampler.spec.settings, noise=PerImageNoise(1, [5, 6]))


@families
def test_images_are_decoded_in_bfloat16_and_channels_last_and_tokens_stay(family):
    sampler, seen = load(family), []
    plain = draw(sampler)
    expected = sampler.decode(plain.tokens)
    decode_in_half(sampler)
    half = sampler.half_decoder._modules["tokenizer"]
    hook = half.decoder.register_forward_hook(lambda _module, args, out: seen.append((args[0], out)))
    samples = draw(sampler)
    hook.remove()
    ((given, decoded),) = seen
    assert given.dtype == decoded.dtype == torch.bfloat16
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in (given, decoded))
    assert samples.decoded.dtype == torch.float32 and samples.decoded.is_contiguous()
    assert same_tokens(samples, plain)
    assert 0 < image_difference(plain.decoded, samples.decoded) < 0.02
    assert {p.dtype for p in sampler.tokenizer.parameters()} == {torch.float32}
    # Tokens that are decoded on their own, as reconstructions are, have the tokenizer's own decoder.
    assert torch.equal(sampler.decode(samples.tokens), expected)
    decode_in_half(sampler, used=False)
    assert torch.equal(draw(sampler).images, plain.images)


def test_only_the_decoder_is_copied():
    tokenizer = load("var").tokenizer
    half = HalfDecoder(tokenizer)
    assert half.encoder is tokenizer.encoder and half.quantize is tokenizer.quantize
    assert half.decoder is not tokenizer.decoder
    assert half.decoder.conv_in.weight.dtype == torch.bfloat16
    copied = {id(p) for p in half.parameters()}
    assert copied and not copied & {id(p) for p in tokenizer.parameters()}
    assert len(copied) == sum(1 for part in half.decoding for _ in getattr(tokenizer, part).parameters())


@families
def test_the_rule_of_correctness_lets_it_decode_or_not(family):
    sampler = load(family)
    plain = draw(sampler)
    refused = choose_decoder(sampler, sampler.spec.settings, batch=2)
    assert refused.image_diff > TOLERANCES[torch.float32].images
    assert refused.used.startswith(f"as the tokenizer, in float32: {HALF_DECODE} differs by 0.0")
    assert refused.used.endswith(", 0.001 is allowed")
    assert "decode" not in sampler.kernels
    assert torch.equal(draw(sampler).decoded, plain.decoded)
    taken = choose_decoder(sampler, sampler.spec.settings, batch=2, tolerance=LENIENT)
    assert taken.used == sampler.kernels["decode"] == HALF_DECODE
    assert taken.image_diff == refused.image_diff
    assert not torch.equal(draw(sampler).decoded, plain.decoded)


def test_a_model_in_bfloat16_may_decode_so_by_the_tolerance_of_its_dtype():
    sampler = load("var", dtype=torch.bfloat16)
    assert choose_decoder(sampler, sampler.spec.settings, batch=1).used == HALF_DECODE


def test_a_tokenizer_without_a_named_decoder_decodes_by_itself(monkeypatch):
    sampler = load("var")
    monkeypatch.setattr(type(sampler.tokenizer), "decoding", ())
    with pytest.raises(ContractError, match="VqVae does not name the modules that decode"):
        decode_in_half(sampler)
    choice = choose_decoder(sampler, sampler.spec.settings, batch=1, tolerance=LENIENT)
    assert choice.used == "as the tokenizer, in float32: VqVae does not name the modules that decode"
    assert choice.image_diff is None and sampler.half_decoder is None


def test_images_that_are_not_finite_are_refused(monkeypatch):
    sampler = load("var")
    monkeypatch.setattr(HalfDecoder, "decode_map", lambda self, map_BKhw: torch.full((1, 3, 32, 32), torch.nan))
    choice = choose_decoder(sampler, sampler.spec.settings, batch=1, tolerance=LENIENT)
    assert sampler.half_decoder is None and "differs by nan" in choice.used


def test_recorded_calls_are_forgotten_and_recorded_anew():
    sampler, plain = load("var"), load("var")
    decode_in_half(plain)
    sampler.use_graphs(TapeCapture)
    draw(sampler)
    decode_in_half(sampler)
    for _ in range(2):
        assert torch.equal(draw(sampler).decoded, draw(plain).decoded)
    assert sampler.graphs.report().reason == ""


def test_the_plain_twin_of_a_method_decodes_as_the_method_does():
    spec = spec_of("demo/var", "skip:2")
    sampler = build_sampler(spec, weights="demo", backend="optimized")
    assert plain_twin(sampler).half_decoder is None
    decode_in_half(sampler)
    twin = plain_twin(sampler)
    assert twin.spec.plain is None and twin.half_decoder is not None
    plain = load("var")
    decode_in_half(plain)
    assert torch.equal(draw(twin).decoded, draw(plain).decoded)
    assert not torch.equal(draw(twin).decoded, draw(load("var")).decoded)


@pytest.fixture
def half_decode_everywhere(monkeypatch):
    monkeypatch.setattr(Backend, "half_decode_on", lambda self, device_type: self.half_decode)
    monkeypatch.setitem(TOLERANCES, torch.float32, LENIENT)


def job(folder, **changes):
    config = CaseConfig(model="demo/var", weights="random:0", batch=1, repeats=1, max_warmup=1, backend="optimized")
    return Job(record_id="r1", case=config, folder=folder, **changes)


def measure(request):
    return measure_case(request, lambda event: None)


def test_a_record_says_which_decoder_ran_and_its_second_part_takes_it_too(
    tmp_path, half_decode_everywhere, monkeypatch
):
    speed = measure(job(tmp_path, part=Part.SPEED))
    assert speed.outcome.setup.kernels["decode"] == HALF_DECODE
    assert 0 < speed.outcome.correctness.image_diff < 0.02
    assert speed.outcome.setup.decode_dtype == "bfloat16"
    plain = load("var").schedule(load("var").spec.settings, batch=1)
    assert 0 < speed.outcome.setup.decode_bytes < plain.decode_bytes
    seen = []
    monkeypatch.setattr(
        "arvbench.harness.measure.case._quality", lambda job, sampler, *_: (seen.append(sampler), ((), ()))[1]
    )
    measure(job(tmp_path, part=Part.QUALITY, speed=speed))
    assert seen[0].half_decoder is not None


def test_records_of_a_cpu_have_no_choice_of_a_decoder(tmp_path):
    assert "decode" not in measure(job(tmp_path)).outcome.setup.kernels


def test_other_processes_decode_the_images_of_a_case_alike():
    quality = {"protocols": ["digits-cnn"], "reference": "digits", "images": 2}
    config = CaseConfig(model="demo/var", weights="demo", batch=1, backend="optimized", quality=quality)
    plain, half = (load_live_source(config, half_decode=used) for used in (False, True))
    assert (plain.address.half_decode, half.address.half_decode) == (False, True)
    assert plain.key != half.key
