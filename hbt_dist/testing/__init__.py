"""Inject faults and check batch plans; used by tests and benchmarks."""
