"""DetailFlow: tokens from coarse to fine, which form no map of the image."""
