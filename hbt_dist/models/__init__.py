"""Load and save encoders, and make the model a run starts from."""
