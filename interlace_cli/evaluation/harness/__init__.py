"""Outside harnesses: which benchmarks, how each harness is called, how its result files are read."""
