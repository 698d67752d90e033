"""Encode, score shards, ranks, metrics, pair matrix, bias, significance, typology.

Knows nothing of Ray, and of files only what it is handed.
"""
