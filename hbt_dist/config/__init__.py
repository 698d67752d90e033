"""Read settings files: strict YAML to types, messages, paths, user functions."""
