"""Workflows over HTTP: for services and browsers, and for programs that speak OpenAI's chat and embedding protocols.

A `Gateway` owns a client of the cluster and the workflows that may be run; `listening` gives it a port. It decides
nothing about where calls run: a request becomes a run like that of any client, and is cancelled when its caller goes.
"""

from dask_fmware.gateway.gateway import Gateway
from dask_fmware.gateway.server import listening

__all__ = ["Gateway", "listening"]
