"""What vLLM's scheduler says of itself after each step, read through one of its stat loggers.

vLLM declares the interface unstable: its version is pinned, and the conformance suite reads the counters.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dask_fmware.model.engine import EngineState

__all__ = ["EngineStats"]


class EngineStats:
    """The state at the last step; written by vLLM's thread or task, read by anyone."""

    def __init__(self) -> None:
        self.state = EngineState(kv_used=0.0, prefix_queried_tokens=0, prefix_hit_tokens=0, preemptions=0)

    def logger(self, vllm_config: Any, engine_index: int = 0) -> Any:
        """Return a stat logger that writes here: a factory as vLLM takes them."""
        from vllm.v1.metrics.loggers import StatLoggerBase

        stats = self

        class Reader(StatLoggerBase):  # type: ignore[misc]
            """Hands each record over."""

            def __init__(self) -> None:
                pass

            def record(
                self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
            ) -> None:
                stats.record(scheduler_stats, iteration_stats, mm_cache_stats)

            def log_engine_initialized(self) -> None:
                pass

        return Reader()

    def record(self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None) -> None:
        """Take in what one step reports: levels are replaced, counts are added."""
        scheduler, iteration, last = scheduler_stats, iteration_stats, self.state
        if scheduler is not None:
            prefix = scheduler.prefix_cache_stats
            last = replace(
                last,
                running=scheduler.num_running_reqs,
                waiting=scheduler.num_waiting_reqs,
                kv_used=scheduler.kv_cache_usage,
                prefix_queried_tokens=(last.prefix_queried_tokens or 0) + prefix.queries,
                prefix_hit_tokens=(last.prefix_hit_tokens or 0) + prefix.hits,
            )
        if iteration is not None:
            last = replace(last, preemptions=(last.preemptions or 0) + iteration.num_preempted_reqs)
        self.state = last

    def log(self) -> None:
        """Nothing is written anywhere."""
