"""The verbs of the command line, one file each: parse, call one function, print."""

from __future__ import annotations

from collections.abc import Callable

from arvbench.registry import Registry

VERBS: Registry[Callable[..., None]] = Registry(
    "verb",
    {
        "run": "arvbench.harness.commands.run:run",
        "check": "arvbench.harness.commands.check:check",
        "sample": "arvbench.harness.commands.sample:sample",
        "models": "arvbench.harness.commands.models:models",
        "verify": "arvbench.harness.commands.verify:verify",
        "train": "arvbench.harness.commands.train:train",
        "convert": "arvbench.harness.commands.convert:convert",
        "versus": "arvbench.harness.commands.versus:versus",
        "compare": "arvbench.harness.commands.compare:compare",
        "cache calibrate": "arvbench.harness.commands.cache:calibrate",
        "baseline calibrate": "arvbench.harness.commands.baseline:calibrate",
        "baseline audit": "arvbench.harness.commands.baseline:audit",
        "baseline update": "arvbench.harness.commands.baseline:update",
        "baseline show": "arvbench.harness.commands.baseline:show",
        "records ls": "arvbench.harness.commands.records:ls",
        "records show": "arvbench.harness.commands.records:show",
        "records merge": "arvbench.harness.commands.records:merge",
        "records prune": "arvbench.harness.commands.records:prune",
        "report": "arvbench.harness.commands.report:report",
        "claims": "arvbench.harness.commands.claims:claims",
        "reproduce": "arvbench.harness.commands.reproduce:reproduce",
        "doctor": "arvbench.harness.commands.doctor:doctor",
        "eval": "arvbench.harness.commands.evaluate:evaluate",
        "merge": "arvbench.harness.commands.merge:merge",
        "reference make": "arvbench.harness.commands.reference:make",
    },
)
"""Verbs in the order of `--help`; the parameters of a function are its options. A name of two words is a verb of a
group. `arvbench --help` imports every file named here, so each imports torch and other slow libraries in its functions.
"""
GROUPS: Registry[str] = Registry(
    "group of verbs",
    {
        "reference": "arvbench.harness.commands.reference:GROUP_HELP",
        "baseline": "arvbench.harness.commands.baseline:GROUP_HELP",
        "cache": "arvbench.harness.commands.cache:GROUP_HELP",
        "records": "arvbench.harness.commands.records:GROUP_HELP",
    },
)
"""Help texts of the groups."""
