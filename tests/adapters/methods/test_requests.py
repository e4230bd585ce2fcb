"""Methods as users write them: text, mapping, refusals in one line, and where a case carries them."""

from __future__ import annotations

import pytest
import torch

from arvbench.adapters.loading import build_sampler, locate_weights
from arvbench.adapters.methods.request import read_method, spec_of, write_method
from arvbench.adapters.sampling import PerImageNoise
from arvbench.adapters.work import total_work
from arvbench.errors import UnknownName, UserError
from arvbench.harness.suites.suite import case_name, check_cases, load_suite
from arvbench.results.schema import CaseConfig


def loaded(method, model="demo/var", weights="demo"):
    return build_sampler(spec_of(model, method), weights=weights)


def tokens_of(sampler):
    return sampler.sample([1, 2], sampler.spec.settings, noise=PerImageNoise(0, range(2))).tokens


def test_a_request_is_text_or_a_mapping():
    assert read_method("code:6,refiner=var-d16") == ("code", {"steps": "6", "refiner": "var-d16"})
    assert write_method({"method": "code", "refiner": "var-d16", "steps": 6}) == "code:6,refiner=var-d16"
    assert write_method({"method": "fastvar", "shares": [0.4, 0.5], "skip": 2}) == "fastvar:0.4/0.5,skip=2"
    assert write_method({"method": "skip", "scales": 2}) == "skip:2"


@pytest.mark.parametrize(
    ("model", "method", "reason"),
    [
        ("demo/llamagen", "skip:1", "method skip does not run on demo/llamagen .* it runs on: var"),
        ("demo/hmar", "code:3,refiner=demo/var", "it runs on: var"),
        ("demo/var", "skip", "method skip needs scales, such as skip:2"),
        ("demo/var", "skip:0", "0 scales must be in 1..5"),
        ("demo/var", "skip:6", "6 scales must be in 1..5"),
        ("demo/var", "skip:two", "scales 'two' must be a whole number"),
        ("demo/var", "skip:1,side=3", "method skip has no option 'side'; it has: scales"),
        ("demo/var", "fastvar:1.0", "'1.0' must be a share of tokens above 0 and below 1"),
        ("demo/var", "fastvar:0.0", "must be a share of tokens above 0 and below 1"),
        ("demo/var", "fastvar:0.5,from=4", "demo/var has layers 0..3"),
        ("demo/var", "fastvar:0.5,cache=8", "cache_side 8 must be the side of a scale before"),
        ("demo/var", "fastvar:.1/.1/.1/.1/.1/.1", "6 pruned scales: demo/var has 6 that run"),
        ("demo/var", "code:3", "method code needs the name of its refiner"),
        ("demo/var", "code:0,refiner=demo/var", "0 drafted scales must be in 1..5"),
        ("demo/var", "code:6,refiner=demo/var", "6 drafted scales must be in 1..5"),
        ("demo/var", "code:3,refiner=demo/par", "CoDe runs two models of the family var"),
        ("demo/var", "code:3,refiner=var-d16", "share a tokenizer: demo/var and var-d16 do not"),
        ("var-d16", "code:3,refiner=var-d36", "share a tokenizer: var-d16 and var-d36 do not"),
    ],
)
def test_what_a_model_cannot_run_is_refused_in_one_line(model, method, reason):
    with pytest.raises(UserError, match=reason) as refused:
        spec_of(model, method)
    assert "\n" not in str(refused.value)


def test_unknown_names_have_near_ones():
    with pytest.raises(UnknownName, match="skip"):
        spec_of("demo/var", "skp:1")
    with pytest.raises(UnknownName, match="var-d16"):
        spec_of("demo/var", "code:3,refiner=var-d17")


def test_code_loads_the_weights_of_both_models():
    plain, code = loaded(None), loaded("code:3,refiner=demo/var")
    assert all(torch.equal(a, b) for a, b in zip(tokens_of(plain), tokens_of(code), strict=True))
    assert code.weights.sha256 == plain.weights.sha256
    assert set(locate_weights(code.spec, "demo")) == {
        "transformer",
        "tokenizer",
        "refiner transformer",
        "refiner tokenizer",
    }
    other = loaded("code:3,refiner=demo/var", weights="random:1")
    assert other.weights.random


def test_two_models_with_different_tokenizers_are_refused():
    with pytest.raises(UserError, match="the weights of demo/var and demo/var have different tokenizers"):
        loaded("code:3,refiner=demo/var,weights=random:1")


def test_a_method_saves_the_work_it_says():
    def work(method):
        sampler = loaded(method, weights="random:0")
        return total_work(sampler.work("static", sampler.spec.settings, batch=2))

    plain, skipped, pruned = work(None), work("skip:2"), work("fastvar:0.4/0.5,from=1")
    assert (plain.forward_passes, skipped.forward_passes) == (6, 4)
    assert (plain.tokens_forwarded, skipped.tokens_forwarded) == (4 * 130, 4 * 30)
    assert plain.layer_tokens - pruned.layer_tokens == 4 * 3 * (14 + 32)
    assert pruned.attention_pairs < plain.attention_pairs


@pytest.mark.parametrize(
    ("model", "passes"),
    [("demo/var", 6), ("demo/mvar", 6), ("demo/flexvar", 6), ("demo/llamagen", 64), ("demo/par", 19), ("demo/nar", 15)],
)
def test_every_family_states_its_work(model, passes):
    sampler = loaded(None, model, "random:0")
    settings = sampler.spec.settings
    work = total_work(sampler.work(sampler.cache_policy(None, settings), settings, batch=1))
    schedule = sampler.schedule(settings, batch=1)
    assert work.forward_passes == passes == len(schedule.steps)
    assert work.tokens_forwarded == sum(step.rows * step.new_tokens for step in schedule.steps)
    assert work.attention_pairs > work.layer_tokens > work.tokens_forwarded


def test_refinement_of_hmar_is_work():
    sampler = loaded(None, "demo/hmar", "random:0")
    settings = sampler.spec.settings
    schedule = sampler.schedule(settings, batch=1)
    work = total_work(sampler.work(sampler.cache_policy(None, settings), settings, batch=1))
    assert work.forward_passes == len(schedule.steps)
    assert work.tokens_forwarded == sum(step.rows * step.new_tokens for step in schedule.steps)


def test_a_suite_names_the_method_of_a_case(tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text(
        "name: s\ncases:\n  - {model: demo/var, weights: demo, method: ['skip:1', {method: skip, scales: 2}]}\n"
    )
    suite = load_suite(str(path))
    check_cases(suite.cases)
    assert [case.config.method for case in suite.cases] == ["skip:1", "skip:2"]
    assert suite.cases[0].case_id == "demo/var skip:1 optimized b1 float32 cpu"
    wrong = load_suite(str(path), overrides={"method": "skip:9"})
    with pytest.raises(UserError, match="9 scales must be"):
        check_cases(wrong.cases)


def test_a_case_without_a_method_is_written_as_before():
    plain = CaseConfig(model="demo/var", weights="demo")
    assert "method" not in plain.model_dump()
    other = plain.model_copy(update={"method": "skip:1"})
    assert CaseConfig.model_validate_json(other.model_dump_json()) == other
    assert case_name(plain) == "demo/var optimized b1 float32 cpu"
