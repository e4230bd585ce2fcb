"""The Inception network of 2015-12-05: graph, weights, TensorFlow's resize."""
