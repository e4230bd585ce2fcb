"""arvbench: which autoregressive image model to use, in numbers that can be defended."""

__version__ = "0.1.0"
