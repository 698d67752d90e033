"""Ray: clusters, workers, trials of a search, evaluation shards."""
