"""A recorded event log as something to simulate: its cluster, its runs, and what came of them.

Runs bring what they really did: when they came, the branches they took, the tokens of their calls, the bodies of maps
and loops, and the time that plain code took before each call. Runs that did not finish are left out and counted.
Replicas play the step-time law of their profile, or else their latency figure, which knows no batching.
"""

from dask_fmware.simulation.recorded.facts import Assigned
from dask_fmware.simulation.recorded.reading import read_recorded
from dask_fmware.simulation.recorded.recorded import Recorded

__all__ = ["Assigned", "Recorded", "read_recorded"]
