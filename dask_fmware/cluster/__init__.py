"""Clusters that come with the runtime installed."""

from dask_fmware.cluster.local import LocalModelCluster

__all__ = ["LocalModelCluster"]
