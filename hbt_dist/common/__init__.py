"""Share errors, console output, signals, files and numbers with every room."""
