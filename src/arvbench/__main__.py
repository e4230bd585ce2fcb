"""`python -m arvbench` is the command `arvbench`."""

import sys

from arvbench.harness.cli import main

sys.exit(main())
