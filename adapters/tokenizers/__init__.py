"""Image tokenizers: pixels to codebook ids and back."""
