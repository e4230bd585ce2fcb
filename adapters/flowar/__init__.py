"""FlowAR: scales of latents, each denoised by a head given a transformer's reading of the scales before it."""
