"""xAR: a map of latents, drawn cell by cell; each cell is denoised given the cells before it."""
