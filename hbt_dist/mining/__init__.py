"""Mine hard negatives by language: pool of candidates, exact search, selection."""
