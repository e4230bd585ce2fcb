"""Quality of generated images: feature extractors, reference sets, metrics and the identity of every number.

extractors.py  table of feature extractors       digits_cnn.py, inception.py  the two there are
reference.py   what the samples are compared to  metrics.py                   `measure_quality`
protocol.py    what makes two numbers comparable classifier.py                training of the offline extractor
"""
