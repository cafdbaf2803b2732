"""Time bars and operator races. `python -m benchmarks --help`."""
