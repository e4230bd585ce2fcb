"""Trunk of the families with continuous tokens: what their samplers and transformers share."""
