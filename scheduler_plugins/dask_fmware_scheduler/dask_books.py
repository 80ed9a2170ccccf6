"""What stock Dask keeps of work that is over, and what is taken out of it: the memory of a scheduler stays bounded.

Beside `dask_internals.py` the only place that touches what `distributed.Scheduler` does not promise:
Scheduler.extensions["spans"], task_groups, computations, worker_ttl, _broker; Span.groups; key_split, _expects_comm.
`tests/cluster/test_dask_books.py` holds the contract tests. Verified with distributed 2026.8.
"""

from __future__ import annotations

from dask.utils import key_split
from distributed.core import Status, _expects_comm
from distributed.metrics import time
from distributed.scheduler import Scheduler, heartbeat_interval

__all__ = ["forget_finished_work"]

KEPT = 100  # entries of finished work in each of Dask's books
TTL_S = 300.0  # of a worker without a heartbeat, where the configuration has no worker-ttl
_DEFAULT = ("default",)  # span of work that has none of its own


def forget_finished_work(scheduler: Scheduler) -> None:
    """Drop what stock Dask keeps of all work that it ever did: its memory would grow with each run.

    `key_split` remembers 100,000 keys. Work stealing remembers each worker that ever was, with all that it ever
    held. The event log has a topic for each worker and client that ever was. Whether a handler expects a comm is
    remembered with its server, which may be a nanny that has gone.
    """
    _forget_spans(scheduler)
    _expects_comm.cache_clear()
    topics = scheduler._broker._topics
    for name in [name for name, topic in topics.items() if not topic.events and not topic.subscribers]:
        del topics[name]
    stealing = scheduler.extensions.get("stealing")
    for book in (stealing.in_flight_occupancy, stealing.in_flight_tasks) if stealing is not None else ():
        for worker in [worker for worker in book if worker.status == Status.closed]:
            del book[worker]
    if key_split.cache_info().currsize > KEPT * KEPT:
        key_split.cache_clear()


def _forget_spans(scheduler: Scheduler) -> None:
    """Drop spans and groups of tasks that are over.

    A span remembers every collection and every group of tasks it had, and work that comes to an idle cluster makes
    a new span. Spans that a user has opened are left alone, and those of results that somebody holds: further
    tasks of their groups are looked for there. A computation remembers its groups, too; on a cluster that is never
    idle there is but one of them, on another the last hundred.
    """
    spans, current = scheduler.extensions.get("spans"), set(scheduler.task_groups.values())
    defaults = spans.spans_search_by_name.get(_DEFAULT, []) if spans is not None else []
    for span in defaults[-KEPT:]:
        if span._metadata is not None:
            del span._metadata["collections"][:-KEPT]
    for book in (defaults, scheduler.computations):
        groups = 0
        for one in reversed(book):
            groups += len(one.groups)
            if groups > KEPT:  # with those of what came later
                one.groups &= current
    old = time() - 2 * _unheard_s(scheduler)
    gone = {span.id for span in defaults[:-KEPT] if span.enqueued < old and not span.groups & current}
    if gone:
        for book in (defaults, spans.root_spans, spans.spans_search_by_tag["default"]):
            book[:] = [span for span in book if span.id not in gone]
        for span_id in gone:
            del spans.spans[span_id]


def _unheard_s(scheduler: Scheduler) -> float:
    """After which a worker that is not heard is gone, so that nobody reports on older work."""
    return float(max(scheduler.worker_ttl or TTL_S, 10 * heartbeat_interval(len(scheduler.workers))))
