"""Quality of generated images: from images to metric values, each with an id of everything that could change it.

evaluation.py  entry point: samples and a request in, numbers and findings out
protocols/     named pairs of an extractor and its metrics     detectors/   warnings about samples and references
reference/     image sets that samples are compared with       images/      sources of samples: files or a model
features/      the pass over images, in chunks                 extractors/  networks from images to features
metrics/       arithmetic on features                          identity.py  the id of a number
"""
