"""SwiGLU: the gated product between the projections of a Llama-style feed-forward layer."""
