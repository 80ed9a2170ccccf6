"""What runs inside the Dask scheduler: the replica router and the one adapter to Dask internals."""
