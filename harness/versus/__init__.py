"""Our samplers beside the official code of a model, on the same weights, labels, settings and random stream.

The official repository is a checkout of the user's. It is imported in a process of its own; nothing of it is copied.
`checkouts` knows the repositories, `official` and the family files call their samplers, `launch` is one process of one
side, `trial` interleaves the launches and judges them.
"""
