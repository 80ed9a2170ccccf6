"""What happened lately and why: a bounded history of a machine, the blame for misses, and figures to show.

Fed by `dask_fmware.runtime.observer`, so cluster and simulator are seen alike. It decides nothing and knows no
clock, Dask or screen.
"""

from dask_fmware.observe.explain import Explanation, Neighbour, explain, worst_wait
from dask_fmware.observe.history import History

__all__ = ["Explanation", "History", "Neighbour", "explain", "worst_wait"]
