"""Read DeepSpeed configurations and run the DeepSpeed engine."""
