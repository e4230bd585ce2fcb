"""The Inception network of 2015-12-05: its graph as data, its weights, TensorFlow 1's resize."""

from arvbench.harness.quality.extractors.inception.network import _skeleton as _skeleton  # scripts make weights of it
