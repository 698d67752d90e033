"""Compare hybrid batches with other techniques: code-switching, query expansion, language removal."""
