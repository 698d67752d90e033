"""Studies: ways of training, several seeds each, the same benchmarks, and what the differences are worth."""
