"""Gives BLAS and OpenMP one thread, here and in child processes; they read it once, so this is imported before numpy.

Tests run in as many processes as there are cores: more threads would only wait for each other.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
