"""Why a run took what it took, in words."""

from __future__ import annotations

from typing import Any

from distributed import Future

from dask_fmware.client.asking import ask_about_run, checked_future, still_open
from dask_fmware.model.report import RunReport
from dask_fmware.observe.explain import Explanation, Neighbour
from dask_fmware.observe.explain import explain as explained

__all__ = ["explain"]


def explain(future: Future) -> Any:
    """Say where the time of a run went: its critical path, what lost most, and what it waited for.

    Parameters
    ----------
    future
        From ``client.compute(bound_workflow)``; the run may be over or under way.

    Returns
    -------
    Explanation
        Prints as sentences and a table, in a notebook as HTML.

    Raises
    ------
    NotInstalledError
        If the cluster has no runtime.
    KeyError
        If the run is not known, has not reached the scheduler within 5 s, or is no longer remembered.

    Examples
    --------
    >>> fm.explain(future)  # doctest: +SKIP
    rag 21fccd51 missed its SLO: first token after 3.204 s, promised 2 s
      To blame is node 'answer': it waited 2.310 s for a slot of large-slow-0 on card slow-0 (2.310 s of 3.204 s).
      Meanwhile that card ran rag.answer x5, shopping.recommend x2.
    """
    client = still_open(checked_future(future, "explain").client, "explain")
    return client.sync(_explain, future)


async def _explain(future: Future) -> Explanation:
    wire = await ask_about_run(future, "fmware_explain")
    neighbours = [Neighbour(**neighbour) for neighbour in wire["neighbours"]]
    return explained(RunReport.from_wire(wire["report"]), neighbours, wire["now"])
