"""One function per benchmark: reads its files into a `hbt_dist.data.benchmarks.builder.BenchmarkBuilder`."""
