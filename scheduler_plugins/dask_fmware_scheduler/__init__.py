"""What runs inside the Dask scheduler: the replica router, the services beside it, the adapter to Dask internals."""
