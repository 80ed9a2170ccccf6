"""What runs inside Dask workers: the model host, the call runner and the engines."""
