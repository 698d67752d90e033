"""Save, restore, keep, export and measure checkpoints."""
