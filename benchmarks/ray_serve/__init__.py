"""The same workflows on the real Ray Serve, in an environment of its own (see benchmarks/README.md)."""
