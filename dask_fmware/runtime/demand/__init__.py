"""What is asked of each model, learnt by watching the machine."""

from dask_fmware.runtime.demand.watching import Demand

__all__ = ["Demand"]
