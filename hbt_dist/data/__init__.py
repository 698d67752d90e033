"""Corpora for training and benchmarks for evaluation, read from public and own formats."""
