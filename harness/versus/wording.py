"""Words and tables of a comparison with the official code.

Units    milliseconds, MiB
"""

from __future__ import annotations

from arvbench.harness.versus.trial import Ratio, Versus

_MIB = 2**20
COLUMNS = ("Scope", "Official ms", "Ours ms", "Ratio", "95 % interval", "Detects")


def cells(ratio: Ratio) -> tuple[str, ...]:
    """Return one row of the table of ratios, as `COLUMNS`."""
    interval = "-" if ratio.interval is None else f"{ratio.interval[0]:.2f} to {ratio.interval[1]:.2f}"
    return (
        ratio.scope,
        f"{ratio.official_ns / 1e6:.4g}",
        f"{ratio.ours_ns / 1e6:.4g}",
        f"{ratio.ratio:.2f}",
        interval,
        "-" if ratio.detectable is None else f"{ratio.detectable:.0%}",
    )


def sentences(versus: Versus) -> list[str]:
    """Return what was compared, and all that a reader must know of it."""
    case = versus.case
    commit = versus.commit[:7] or "unknown commit"
    lines = [
        f"{case.model} ({case.weights}), batch {case.batch}, {case.dtype}, {case.device}, backend {case.backend}, "
        f"beside {versus.repository} at {commit}{', with changes' if versus.dirty else ''} ({versus.variant})."
    ]
    if versus.status != "ok":
        lines.append(f"{versus.status}: {versus.reason}.")
    if (parity := versus.parity) is not None:
        lines.append(
            f"Same weights, labels and random stream in float32: {parity.equal_reference} of {parity.tokens} ids of "
            f"our reference and {parity.equal_backend} of the {case.backend} backend equal the official ones; decoded "
            f"images differ by at most {parity.images_max_diff:.1e}."
        )
        lines.append(
            f"Cache: official {parity.official_cache_bytes / _MIB:.3g} MiB, "
            f"ours {parity.our_cache_bytes / _MIB:.3g} MiB (float32)."
        )
    lines += [f"Our decoder: {used}." for used in dict.fromkeys(times.decoder for times in versus.ours) if used]
    lines += [f"Stand-in: {shim}." for shim in versus.shims]
    lines += [f"Warning: {notice}." for notice in versus.notices]
    if versus.ratios:
        lines.append(
            f"{len(versus.ours)} launches per side in turns, {case.repeats} calls each after warm-up; times are "
            "medians over launches; a ratio of 2 means that ours takes half the time. Tokens: from the call to the "
            "begin of decoding. Detects: the smallest change that these launches find."
        )
        if len(versus.ours) < 4:
            lines.append("An interval needs at least 4 launches per side.")
        if unsteady := sum(not times.steady for times in (*versus.official, *versus.ours)):
            lines.append(f"{unsteady} launches were not steady after {case.max_warmup} warm-up calls.")
    return lines


def markdown(versus: Versus) -> str:
    """Return the comparison as Markdown."""
    table = []
    if versus.ratios:
        table = ["| " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
        table += ["| " + " | ".join(cells(ratio)) + " |" for ratio in versus.ratios]
        table.append("")
    return "\n".join([f"# {versus.case.model} beside its official code", "", *table, *sentences(versus)]) + "\n"
