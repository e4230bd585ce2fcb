"""Keeps tests from waiting for threads, here and in child processes; libraries read this once, before all imports.

Tests run in as many processes as there are cores. BLAS uses one thread in each. Commands that ask OpenMP for a thread
per core get them, but a thread that waits for another one sleeps: by default it would keep a core busy.
"""

from __future__ import annotations

import os

for _name, _value in (("OMP_NUM_THREADS", "1"), ("OPENBLAS_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "passive")):
    os.environ.setdefault(_name, _value)
