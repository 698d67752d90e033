"""Training: engines, optimizer, checkpoints, the loop."""
