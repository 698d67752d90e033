"""One function per benchmark: reads its files into a `hbt_dist.data.benchmark_builder.BenchmarkBuilder`."""
