"""Drawing of tokens from logits: guidance, temperature, top-k, top-p and the draw as one operation."""
