"""Words shared by every process: calls, completions, usage, replicas, the engine protocol, messages.

Pure: immutable dataclasses without I/O, clock or Dask.
"""
