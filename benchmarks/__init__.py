"""Benchmarks: one command for each table, see README.md."""
