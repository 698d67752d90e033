"""Find training texts that repeat benchmark texts, and leave them out."""
