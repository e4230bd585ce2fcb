"""One session on a GPU machine: `make gpu`, `python -m arvbench.harness.gpu`.

Everything that only a GPU can show, most important first, within a budget of time: kernels against their references,
fixtures and data types, then every goal beside its peer in turns. `rows` is the form of a result, `plan` the order and
the budgets, `parts` what child processes do, `goals` the comparisons, `session` runs them and writes the folder.
"""
