"""What clonedb claims about its speed, measured: one module a claim, run by `python -m benchmarks`."""
