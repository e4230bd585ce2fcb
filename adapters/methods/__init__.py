"""Methods that change the schedule of a model: other forward passes for the same weights, and other images.

A method is a sampler class of its own, with settings of its own, around the modules of an ordinary model.
"""
