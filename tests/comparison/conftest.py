"""Benchmarks and embeddings as in the tests of evaluation."""

from __future__ import annotations

from tests.evaluation.conftest import kind, make_benchmark, make_embeddings, tiny_model

__all__ = ["kind", "make_benchmark", "make_embeddings", "tiny_model"]
