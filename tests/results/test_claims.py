"""Experiments behind claims: what a claimed number means, and the verdict for an outcome."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from arvbench.errors import UserError
from arvbench.results.claims import (
    Experiment,
    Outcome,
    Outcomes,
    Provenance,
    claimed_range,
    newest_outcomes,
    outcome_value,
    read_outcomes,
    verdict_of,
)

HERE = Provenance(machine="cpu", cores=2, arvbench="0", commit=None, dirty=None, made="2026-01-01T00:00:00Z")


def experiment(**changes):
    given = {
        "id": "made-up",
        "claim": "hack-70",
        "says": "saves 44.2 %",
        "claimed": "44.2",
        "unit": "%",
        "kind": "planned",
        "quantity": "cache_bytes",
        "form": "saved",
        "of": {"model": "demo/var"},
        "over": {"model": "demo/nar"},
        "otherwise": "needs GPU",
        "cause": "counting",
    }
    return Experiment.model_validate({key: value for key, value in (given | changes).items() if value is not None})


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("44.2", 44.15, 44.25),
        ("31", 30.5, 31.5),
        ("310", 305, 315),
        ("600", 550, 650),
        ("2.0", 1.95, 2.05),
        ("~20", 15, 25),
        ("~0.5", 0.45, 0.55),
        (">2.5", 2.5, math.inf),
        ("<1", 0, 1),
        ("3.26..4.14", 3.255, 4.145),
    ],
)
def test_a_claimed_number_carries_its_own_rounding(text, low, high):
    assert claimed_range(text) == pytest.approx((low, high), abs=1e-8)


@pytest.mark.parametrize("text", ["about 20", "-1", "~3..4", "1e3", "", "nan", "5x", "2.", "1" * 400])
def test_text_that_is_no_claimed_number_is_refused(text):
    if text == "1" * 400:
        with pytest.raises(ValidationError, match="at most 20"):
            experiment(claimed=text)
    else:
        with pytest.raises(ValueError, match="is not a number such as"):
            claimed_range(text)


@pytest.mark.parametrize(
    ("changes", "value", "verdict"),
    [
        ({}, 44.2, "reproduced"),
        ({}, 22.8, "direction only"),
        ({}, -3.0, "not reproduced"),
        ({}, 0.0, "not reproduced"),
        ({}, None, "needs GPU"),
        ({"decides": "direction"}, 44.2, "direction only"),
        ({"decides": "direction"}, -3.0, "needs GPU"),
        ({"form": "value", "over": None}, 44.2, "reproduced"),
        ({"form": "value", "over": None}, 50.0, "not reproduced"),
        ({"form": "ratio", "claimed": ">2.5"}, 2.6, "reproduced"),
        ({"form": "ratio", "claimed": ">2.5"}, 1.1, "direction only"),
        ({"form": "ratio", "claimed": ">2.5"}, 0.9, "not reproduced"),
        ({"form": "ratio", "claimed": "0.5"}, 0.7, "direction only"),
        ({"form": "ratio", "claimed": "1.0"}, 1.2, "not reproduced"),
        ({"form": "share", "claimed": "12"}, 6.2, "direction only"),
    ],
)
def test_the_verdict_follows_from_the_outcome(changes, value, verdict):
    made = experiment(**changes)
    assert verdict_of(made, value) == verdict
    cause = Outcome(experiment=made, value=value).cause
    assert cause == ("counting" if verdict in ("not reproduced", "direction only") else None)


def test_no_verdict_but_a_missing_thing_without_an_outcome():
    for otherwise in ("needs weights", "needs GPU", "cannot be tested"):
        only_said = {"kind": "none", "quantity": None, "form": "value", "of": None, "over": None}
        made = experiment(otherwise=otherwise, **only_said)
        assert verdict_of(made, None) == verdict_of(made, 44.2) == otherwise


def test_forms_are_arithmetic_of_two_quantities():
    assert outcome_value(experiment(), (30.0, 40.0)) == pytest.approx(25)
    assert outcome_value(experiment(form="ratio"), (30.0, 40.0)) == pytest.approx(0.75)
    assert outcome_value(experiment(form="share"), (30.0, 40.0)) == pytest.approx(75)
    assert outcome_value(experiment(form="value", over=None, unit="M"), (31e6,)) == pytest.approx(31)
    power = experiment(form="exponent", along="image_px", unit="")
    assert outcome_value(power, (1600.0, 100.0), (512.0, 256.0)) == pytest.approx(4)


@pytest.mark.parametrize(
    ("changes", "quantities", "along"),
    [
        ({}, (1.0, 0.0), ()),
        ({}, (math.nan, 1.0), ()),
        ({}, (1.0, -1.0), ()),
        ({"form": "exponent", "along": "tokens"}, (2.0, 1.0), (5.0, 5.0)),
        ({"form": "exponent", "along": "tokens"}, (0.0, 1.0), (5.0, 6.0)),
    ],
)
def test_a_ratio_without_value_is_an_error_and_no_verdict(changes, quantities, along):
    with pytest.raises(UserError, match="made-up: "):
        outcome_value(experiment(**changes), quantities, along)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "guessed"}, "kind"),
        ({"otherwise": "reproduced"}, "otherwise"),
        ({"cause": "moonlight"}, "cause"),
        ({"quantity": "beauty"}, "quantity"),
        ({"form": "product"}, "form"),
        ({"unit": "furlongs"}, "unit"),
        ({"claimed": "about 3"}, "is not a number"),
        ({"claimed": None}, "needs claimed"),
        ({"quantity": "images_ns"}, "not a quantity of kind planned"),
        ({"kind": "measured"}, "not a quantity of kind measured"),
        ({"over": None}, "takes over as well"),
        ({"form": "value"}, "takes no over"),
        ({"form": "exponent"}, "along is for form exponent"),
        ({"kind": "none"}, "kind none has no quantity"),
        ({"decides": "direction", "form": "value", "over": None}, "has no sides"),
        ({"of": {"model": "demo/var", "batch": 0}}, "of.batch"),
        ({"of": {"model": "demo/var", "batch": True}}, "of.batch"),
        ({"id": "Not an id"}, "id"),
    ],
)
def test_an_experiment_whose_parts_do_not_fit_is_refused(changes, reason):
    with pytest.raises(ValidationError, match=reason):
        experiment(**changes)


def test_an_outcome_of_another_wording_is_not_shown_with_a_new_one():
    old, new = experiment(), experiment(claimed="50")
    shipped = Outcomes(outcomes=(Outcome(experiment=old, value=44.2, provenance=HERE),))
    own = Outcomes(outcomes=(Outcome(experiment=old, value=43.0, provenance=HERE),))
    assert newest_outcomes([old], shipped, own)[0].value == 43.0
    assert newest_outcomes([new], shipped, own) == (Outcome(experiment=new),)


@pytest.mark.parametrize("text", ["", "[]", '{"outcomes": [{}]}', '{"schema_version": 2, "outcomes": []}', "\0"])
def test_a_damaged_file_of_outcomes_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "claims.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"claims\.json is not a file of outcomes: [^\n]+$"):
        read_outcomes(path)
