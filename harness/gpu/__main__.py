"""`python -m arvbench.harness.gpu`: a session on this machine's GPU (`make gpu`), or its rehearsal (DRY=1)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from arvbench.errors import ArvbenchError, ExitCode


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a session and return an exit code: 0 however its rows ended, 3 without a GPU."""
    from arvbench.harness.gpu.plan import BUDGET_S, DRY_BUDGET_S

    parser = argparse.ArgumentParser(prog="make gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--dry", action="store_true", help="rehearse in miniature on the CPU")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help=f"time in all, {BUDGET_S:.0f} by default")
    parser.add_argument("--fixtures", type=Path, default=Path("tests/golden/recipe"), help="folder of fixtures")
    parser.add_argument("--upstream", type=Path, metavar="DIR", help="folder with checkouts VAR, NAR, LlamaGen")
    options = parser.parse_args(arguments)
    from arvbench.harness.gpu.session import SessionRequest, run_session

    budget_s = options.budget if options.budget is not None else DRY_BUDGET_S if options.dry else BUDGET_S
    if not budget_s > 0:
        parser.error("--budget takes a number of seconds above 0")
    request = SessionRequest(
        folder=options.out.absolute(),
        dry=options.dry,
        budget_s=budget_s,
        fixtures=options.fixtures.absolute(),
        upstream=options.upstream.absolute() if options.upstream else None,
    )
    try:
        run_session(request, _say)
    except ArvbenchError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted; the rows so far are in {request.folder}\n")
        return ExitCode.INTERRUPTED
    _say(f"see {request.folder}/gpu.md")
    return ExitCode.OK


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
