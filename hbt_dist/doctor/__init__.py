"""Check that a machine and its Ray cluster are ready to train."""
