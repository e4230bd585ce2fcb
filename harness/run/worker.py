"""The process that measures one case: `python -m arvbench.harness.run.worker --events-fd N --result PATH`.

The job is one line of JSON on stdin (machine/processes.py). Progress goes to the given file descriptor, one JSON object
per line; the result is written to PATH whole or not at all. Every failure of the case ends in a result and exit code 0;
any other exit is the death of the process itself, which the engine explains.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from arvbench.files import write_whole
from arvbench.harness.jobs import COMPILER_CACHES, Event, EventListener, Finished, Job, Result
from arvbench.harness.machine.processes import receive
from arvbench.harness.run.fingerprint import fingerprint


def main(arguments: Sequence[str] | None = None) -> int:
    """Read a job, run it, and write its result."""
    parser = argparse.ArgumentParser(prog="arvbench.harness.run.worker", description=__doc__)
    parser.add_argument("--events-fd", type=int, required=True)
    parser.add_argument("--result", type=Path, required=True)
    options = parser.parse_args(arguments)
    begin, job = time.monotonic(), Job.model_validate_json(receive())
    with os.fdopen(options.events_fd, "w", encoding="utf-8") as events:

        def tell(event: Event) -> None:
            # A parent that stopped listening is about to end this process: not a failure of the case.
            with contextlib.suppress(BrokenPipeError):
                events.write(event.model_dump_json() + "\n")
                events.flush()

        result = run_job(job, tell)
        where, files = result.environment, job.extractor_files
        identity = fingerprint(job.case, where, files, launch=job.launch) if where else ""
        seconds = time.monotonic() - begin
        finished = Finished(job=job, result=result, fingerprint=identity, seconds=seconds)
        write_whole(options.result, finished.model_dump_json())
    return 0


def run_job(job: Job, listener: EventListener) -> Result:
    """Run a job in this process; every failure of the case becomes its outcome."""
    listener(Event(phase="import", pid=os.getpid()))
    _name_compiler_caches(job)
    begin, forked = time.perf_counter_ns(), "torch" in sys.modules
    # torch is imported here and not above: the parent's death must be noticed from the start.
    from arvbench.adapters.loading import usable_device
    from arvbench.harness.machine.failures import failed
    from arvbench.harness.machine.limits import lift_memory_limit, set_memory_limit, set_threads
    from arvbench.harness.measure.case import measure_case

    import_ns = None if forked else time.perf_counter_ns() - begin
    case = job.case
    try:
        if case.capacity is not None:
            from arvbench.harness.run.capacity import measure_capacity

            return measure_capacity(job, listener)
        set_threads(case.threads)
        device = usable_device(case.device)
        if case.memory_limit_bytes is not None:
            set_memory_limit(case.memory_limit_bytes, device)
        return measure_case(job, listener, import_ns=import_ns)
    except Exception as error:
        lift_memory_limit()
        return Result(outcome=failed(error, case))


def _name_compiler_caches(job: Job) -> None:
    """Give this launch compiler caches of its own, before a compiler is imported; those of the user stay."""
    if job.compiler_cache is not None:
        for name in COMPILER_CACHES:
            os.environ.setdefault(name, str(job.compiler_cache / name.partition("_")[0].lower()))


if __name__ == "__main__":
    sys.exit(main())
