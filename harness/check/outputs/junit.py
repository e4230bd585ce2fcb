"""JUnit XML of a check: one test case per gated number, for the test pages of CI systems.

A regression is a failure and an unusable number an error. What the machine hides, and what is inconclusive, is skipped
with its reason. A check that is unusable as a whole has a test case of its own, so that no file without errors is taken
for a pass. The form is the common one (Jenkins' junit-10.xsd).
"""

from __future__ import annotations

from typing import Final
from xml.etree import ElementTree

from arvbench.reports.numbers import plain
from arvbench.reports.tables.changes import change_text, interval_text, percent
from arvbench.results.moments import in_utc
from arvbench.results.verdict import Change, Check, Verdict, worst_first

_ELEMENTS: Final = {
    Verdict.REGRESSION: "failure",
    Verdict.UNUSABLE: "error",
    Verdict.MACHINE: "skipped",
    Verdict.INCONCLUSIVE: "skipped",
}


def junit_xml(check: Check) -> str:
    """Write a check as JUnit XML; names are escaped, and control characters removed."""
    suite = ElementTree.Element("testsuite")
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(check).items():
        ElementTree.SubElement(properties, "property", name=name, value=plain(value))
    for change in worst_first(check.changes):
        test = _add_test(suite, (change.case, change.number), change.verdict, change.reason)
        ElementTree.SubElement(test, "system-out").text = _numbers(change)
    for sentences, verdict in ((check.unusable, Verdict.UNUSABLE), (check.machine, Verdict.MACHINE)):
        if sentences:
            _add_test(suite, ("check", verdict.value), verdict, " ".join(sentences))
    counts = {
        "tests": len(suite.findall("testcase")),
        "failures": len(suite.findall("testcase/failure")),
        "errors": len(suite.findall("testcase/error")),
        "skipped": len(suite.findall("testcase/skipped")),
    }
    seconds = f"{max(0.0, (check.finished - check.started).total_seconds()):.3f}"
    names = {"name": f"arvbench {plain(check.suite)}", "time": seconds}
    suite.attrib |= names | {key: str(count) for key, count in counts.items()}
    suite.set("timestamp", f"{in_utc(check.started):%Y-%m-%dT%H:%M:%S}")
    root = ElementTree.Element("testsuites", suite.attrib)
    for attribute in ("skipped", "timestamp"):  # which only a suite has
        del root.attrib[attribute]
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _properties(check: Check) -> dict[str, str]:
    return {
        "verdict": check.verdict.value,
        "run_id": check.run_id,
        "hardware": check.hardware,
        "base": check.base.commit or check.base.name,
        "head": check.head.commit or check.head.name,
        "command": check.command,
    }


def _add_test(suite: ElementTree.Element, names: tuple[str, str], verdict: Verdict, reason: str) -> ElementTree.Element:
    """Add the test case of `names` (case, number), with an element that says why it does not pass."""
    case, number = map(plain, names)
    test = ElementTree.SubElement(suite, "testcase", classname=case, name=number, time="0")
    if verdict in _ELEMENTS:
        element = ElementTree.SubElement(test, _ELEMENTS[verdict], message=f"{verdict.value}: {plain(reason)}")
        if element.tag != "skipped":
            element.set("type", verdict.value)
    return test


def _numbers(change: Change) -> str:
    """Write what the verdict rests on."""
    smallest = change.smallest_detectable
    detectable = "" if smallest is None else f", smallest detectable {percent(smallest, sign='')}"
    interval = f" {interval_text(change.interval)}" if change.interval else ""
    launches = f"{len(change.base)} + {len(change.head)} launches"
    return f"{change.verdict.value}: {change_text(change.ratio)}{interval}{detectable}, {launches}"
