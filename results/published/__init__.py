"""Published numbers, settings and claims with their sources, as CSV files beside this one; `tables` reads them.

quality.csv      FID and its kin of generated images        sampling.csv   settings behind them, quoted
speed.csv        times, throughput, memory                  seeds.csv      publications that the search began with
checkpoints.csv  files of weights                           sources.csv    documents behind the index ids in a source
claims.csv       claims, and what their numbers count       models.csv     models of this package by published name

`seen` says how a row was seen: "first-hand" in the authors' own repository or abstract, "second-hand" in somebody
else's text, or measured by others than the authors. sampling_recipes.csv is the translation of sampling.csv into cases.
"""
