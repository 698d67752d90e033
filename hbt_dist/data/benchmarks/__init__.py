"""Read benchmarks: questions, candidates and judgements in several languages."""
