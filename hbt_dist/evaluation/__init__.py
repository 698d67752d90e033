"""Encode texts, rank candidates, compute metrics, matrices and bias; write and read evaluation folders."""
