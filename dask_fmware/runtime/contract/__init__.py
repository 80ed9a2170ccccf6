"""The contract, checked: does what happened keep the promises of DESIGN.md section 8?

The books kept here are made from events and decisions alone, never from the machine's own, so that an error there
cannot hide itself. The same checker watches a live machine, a simulation, and an event log.
"""

from dask_fmware.runtime.contract.breach import Breach
from dask_fmware.runtime.contract.checker import Contract, check_log

__all__ = ["Breach", "Contract", "check_log"]
