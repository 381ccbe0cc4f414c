"""How fast TaskFlow is on this machine: `make bench`, or `python -m benchmarks --help`."""
