"""From the tokens of one scale to the input of the next: the canvas of a residual tokenizer as one operation."""
