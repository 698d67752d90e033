"""Read corpora for training and benchmarks for evaluation, from public and user-defined formats."""
