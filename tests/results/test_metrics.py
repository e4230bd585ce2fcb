"""Every metric has one line at most, and the narrow tables show the best known ones."""

from __future__ import annotations

from arvbench.results.metrics import HEADLINE_METRICS, METRICS, TERMINAL_METRICS, MetricLabel, label_of


def test_a_listed_metric_has_a_label_and_a_direction():
    for name, label in METRICS.items():
        assert label.text and label.text != name
        assert label.better in ("lower", "higher")
        assert label_of(name) is label


def test_an_unlisted_metric_is_shown_under_its_own_name():
    assert label_of("brand-new") == MetricLabel("brand-new", "")


def test_every_metric_of_the_terminal_is_in_the_results_table():
    assert TERMINAL_METRICS == ("fid", "reconstruction-fid", "label-accuracy")
    assert (*TERMINAL_METRICS, "is", "isc") == HEADLINE_METRICS
