"""The file of experiments, and what this machine computes and measures for them."""

from __future__ import annotations

import pytest
import records as make

from arvbench.adapters.loading import load_sampler
from arvbench.adapters.work import total_work
from arvbench.errors import UserError
from arvbench.harness.claims.experiments import choose, load_experiments
from arvbench.harness.claims.measured import Found, check_apart, measured_quantity, write_suite
from arvbench.harness.claims.planned import planned_quantity
from arvbench.harness.claims.run import run_experiments
from arvbench.results.claims import Experiment, Term
from arvbench.results.published.tables import claim_rows
from arvbench.results.schema import Status

SYSTEMS = {"VAR", "M-VAR", "HMAR", "NAR", "FlexVAR", "LlamaGen", "PAR", "CoDe", "ScaleKV", "HACK"}
LATER = {"LineAR", "AMS-KV", "FreqExit", "FastVAR", "SkipVAR", "Markov-VAR"}
PLAN = """
- id: made-up
  claim: hack-70
  says: keeps less
  claimed: "2"
  unit: x
  kind: planned
  quantity: cache_bytes
  form: ratio
  of: {model: demo/var, batch: 2}
  over: {model: demo/var}
  otherwise: needs GPU
"""


def written(tmp_path, text: str):
    path = tmp_path / "claims.yaml"
    path.write_text("experiments:" + text)
    return path


def test_every_claim_of_the_named_systems_has_an_experiment():
    experiments = load_experiments()
    claims = {name for name, row in claim_rows().items() if row.system in SYSTEMS | LATER}
    assert claims == {experiment.claim for experiment in experiments}
    assert {claim_rows()[name].system for name in claims} == SYSTEMS | LATER


def test_claims_that_need_weights_are_not_decided_by_a_plan():
    for experiment in load_experiments():
        row = claim_rows()[experiment.claim]
        if row.trained_weights_required == "yes" and row.quantity == "FID":
            assert experiment.kind == "none" or experiment.quantity in ("steps", "cache_bytes"), experiment.id


def test_planned_quantities_are_those_of_a_loaded_sampler():
    sampler = load_sampler("demo/var", weights="demo", backend="reference")
    settings, term = sampler.spec.settings, Term(model="demo/var", batch=3, cache="static")
    schedule = sampler.schedule(settings, batch=3, cache="static")
    work = total_work(sampler.work("static", settings, batch=3))
    parts = sampler.modules()
    parameters = {part: sum(p.numel() for p in module.parameters()) for part, module in parts.items()}
    expected = {
        "steps": len(schedule),
        "scales": len(schedule),
        "flops": schedule.flops,
        "call_flops": schedule.flops + schedule.decode_flops,
        "cache_bytes": schedule.peak_cache_bytes,
        "kept_bytes": 4 * sum(parameters.values()) + schedule.peak_cache_bytes,
        "parameters": parameters["transformer"],
        "sampler_parameters": parameters["transformer"],
        "attention_pairs": work.attention_pairs,
        "image_px": sampler.spec.image_px,
    }
    assert {quantity: planned_quantity(term, quantity) for quantity in expected} == expected
    state, memory = (planned_quantity(term, quantity) for quantity in ("state_bytes", "memory_bytes"))
    assert schedule.peak_cache_bytes < state < memory


def test_a_case_that_the_model_refuses_is_a_note_and_the_others_go_on(tmp_path):
    path = written(tmp_path, PLAN + PLAN.replace("made-up", "refused").replace("batch: 2", "cache: windows"))
    good, bad = run_experiments(load_experiments(path), None, store=None, listener=None)
    assert good.value == 2 and good.verdict == "reproduced" and good.provenance.commit is not None
    assert bad.value is None and "windows" in bad.note and bad.verdict == "needs GPU"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("kind: planned", "kind: guessed", "experiments.0.kind: Input should be 'planned', 'measured' or 'none'"),
        ("otherwise: needs GPU", "otherwise: reproduced", "experiments.0.otherwise"),
        ("unit: x", "unit: x\n  cause: moonlight", "experiments.0.cause"),
        ("unit: x", "units: x", "unknown key 'units'; did you mean 'unit'"),
        ("batch: 2", "batches: 2", "unknown key 'batches'; did you mean 'batch'"),
        ("demo/var, batch: 2", "demo/vat", "made-up: no model 'demo/vat'; did you mean 'demo/var'"),
        ("claim: hack-70", "claim: hack-71", "no published claim 'hack-71'; did you mean 'hack-70'"),
        ('"2"', "about two", "is not a number such as"),
        ("  unit: x", "  unit: x\n  unit: x", "line 7"),
        ("\n- id: made-up", PLAN + "- id: made-up", "experiment 'made-up' stands there 2 times"),
        ("made-up", "!!python/object:os.system x", "claims.yaml: line"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path, old, new, reason):
    path = written(tmp_path, PLAN.replace(old, new, 1))
    with pytest.raises(UserError) as refused:
        load_experiments(path)
    assert reason in str(refused.value) and "\n" not in str(refused.value) and "claims.yaml" in str(refused.value)


@pytest.mark.parametrize("text", ["experiments: []", "nothing", "", "experiments: 3"])
def test_a_file_without_experiments_is_refused(tmp_path, text):
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"claims\.yaml"):
        load_experiments(path)


def test_a_choice_takes_ids_claims_and_patterns_and_refuses_others():
    experiments = load_experiments()
    assert [each.id for each in choose(experiments, ["par-4x"])] == ["par-4x-passes", "par-4x-speed"]
    assert all(each.id.startswith("nar-") for each in choose(experiments, ["nar-*"]))
    assert choose(experiments, []) == experiments
    with pytest.raises(UserError, match="no claim 'hack-7O'; did you mean"):
        choose(experiments, ["nar-*", "hack-7O"])


def measured_experiment(**changes) -> Experiment:
    fields = {"id": "timed", "claim": "nar-llamagen", "says": "faster", "claimed": "3.56", "unit": "x"}
    fields |= {"kind": "measured", "decides": "direction", "quantity": "images_ns", "form": "ratio"}
    fields |= {"of": {"model": "demo/var"}, "over": {"model": "demo/nar", "batch": 2}, "otherwise": "needs GPU"}
    return Experiment.model_validate(fields | changes)


def test_the_suite_holds_every_case_once(tmp_path):
    twice = [measured_experiment(), measured_experiment(id="again", quantity="tokens_ns")]
    suite = write_suite(twice, tmp_path)
    assert [(case.config.model, case.config.batch) for case in suite.first_launches] == [
        ("demo/var", 1),
        ("demo/nar", 2),
    ]
    assert [case.launch for case in suite.cases] == [1, 1]
    assert all(case.config.weights == "random:0" for case in suite.cases)


def test_calls_that_overlap_decide_no_direction():
    slow, fast, between = (Found(samples[1], samples=samples) for samples in ((5, 6, 7), (1, 2, 3), (3, 4, 5)))
    check_apart(slow, fast)
    check_apart(fast, slow)
    check_apart(Found(4.0), slow)  # planned, or bytes: exact
    for pair in ((slow, between), (between, slow), (between, fast), (slow, slow)):
        with pytest.raises(UserError, match=r"overlap .* decide no direction"):
            check_apart(*pair)


def test_a_measured_quantity_is_the_median_of_its_record_and_a_failure_has_its_reason():
    ok = make.record("demo/var", number=1)
    term = Term(model=ok.case.model, batch=ok.case.batch, cache=ok.case.cache, settings=ok.case.settings)
    found = measured_quantity([ok], term, "images_ns")
    assert found.record_ids == (ok.record_id,) and found.value > 0
    assert measured_quantity([ok], term, "cache_live_bytes").value == ok.outcome.memory.cache_live_bytes
    lost = make.failed(Status.OOM, "no memory left", number=2)
    gone = Term(model=lost.case.model, batch=lost.case.batch, cache=lost.case.cache, settings=lost.case.settings)
    with pytest.raises(UserError, match="oom: no memory left"):
        measured_quantity([lost], gone, "images_ns")
    with pytest.raises(UserError, match="was not measured"):
        measured_quantity([], term, "images_ns")
