"""Build the training corpus: readers, records, duplicate groups, Arrow files."""
