"""Read the files of each benchmark into a `hbt_dist.data.benchmarks.builder.BenchmarkBuilder`."""
