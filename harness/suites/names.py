"""Names of cases for people, unique in a suite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from arvbench.harness.suites.recipes import recipe_for
from arvbench.results.schema import CaseConfig


def case_name(config: CaseConfig) -> str:
    """Return a name such as "demo/var optimized static b16 float32 cpu".

    It shows only those sampling settings that differ from the case's recipe.
    """
    return " ".join([*_words(config).values()])


def unique_names(configs: Sequence[CaseConfig]) -> list[str]:
    """Return a name for every case; cases with equal names, which differ in minor fields, are numbered.

    Searches are numbered by what all their tries have in their names, so that no two tries share one.
    """
    seen: Counter[str] = Counter()
    names = []
    for config in configs:
        words = _words(config)
        seen[common := " ".join(word for key, word in words.items() if key not in _searched(config))] += 1
        names.append(" ".join(words.values()) + (f" #{seen[common]}" if seen[common] > 1 else ""))
    return names


def _searched(config: CaseConfig) -> frozenset[str]:
    return frozenset(config.search.over) if config.search is not None else frozenset()


def _words(config: CaseConfig) -> dict[str, str]:
    """Return the words of a name by the key of the case that each stands for."""
    words = {"model": config.model, "method": config.method or "", "backend": config.backend}
    words |= {"cache": config.cache or "", "batch": f"b{config.batch}", "dtype": config.dtype, "device": config.device}
    known = recipe_for(config.model, config.recipe).settings if config.recipe else {}
    changed = {key: value for key, value in config.settings.items() if key not in known or value != known[key]}
    words |= {f"kernels.{name}": f"kernels.{name}={used}" for name, used in sorted(config.kernels.items())}
    words["recipe"] = config.recipe or ""
    words |= {f"settings.{key}": f"{key}={value}" for key, value in sorted(changed.items())}
    if config.search is not None and "threads" in config.search.over:
        words["threads"] = f"threads={config.threads}"
    words["quality"] = f"quality({'+'.join(config.quality.protocols)})" if config.quality is not None else ""
    words["capacity"] = "capacity" if config.capacity is not None else ""
    if (search := config.search) is not None:
        over = ",".join(key.removeprefix("settings.") for key in search.over)
        words["search"] = f"search({search.objective},{over})" + (" confirmation" if search.confirmation else "")
    return {key: word for key, word in words.items() if word}
