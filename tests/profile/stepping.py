"""An independent model of an engine in SimPy, which takes one step after the other."""

from __future__ import annotations

from dataclasses import dataclass

from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.replica import Limits


@dataclass
class Sequence:
    name: str
    prompt: int
    output: int
    done: int  # prompt tokens in the cache
    priority: float
    number: int
    tokens: int = 0


def stepwise(law: StepLaw, limits: Limits, jobs: list) -> dict[tuple[str, int], float]:
    """When each sequence had its first token (0) and its last (1)."""
    import simpy

    env = simpy.Environment()
    waiting: list[Sequence] = []
    running: list[Sequence] = []
    seen: dict[tuple[str, int], float] = {}
    news = [env.event()]

    def arrive(number, at, name, prompt, output, ready, priority):
        yield env.timeout(at)
        waiting.append(Sequence(name, prompt, output, min(ready, prompt - 1), priority, number))
        if not news[0].triggered:
            news[0].succeed()

    def engine():
        while True:
            if not running and not waiting:
                news[0] = env.event()
                yield news[0]
                yield env.timeout(0)  # all that arrive at this moment
            waiting.sort(key=lambda s: (s.priority, s.number))
            while waiting and len(running) < limits.slots:
                reserved = sum(s.prompt + s.output for s in running)
                first = waiting[0]
                if limits.kv_tokens and running and reserved + first.prompt + first.output > limits.kv_tokens:
                    break
                running.append(waiting.pop(0))
            decoding = [s for s in running if s.tokens]
            context = sum(s.prompt + s.tokens for s in decoding)
            room = max(limits.step_tokens - len(decoding), 0)
            used = prompts = 0
            pairs = 0.0
            finished = []
            for s in running:
                if s.tokens or room == used:
                    continue
                share = min(s.prompt - s.done, room - used)
                pairs += share * (s.done + share / 2)
                s.done += share
                used += share
                prompts += 1
                if s.done == s.prompt:
                    finished.append(s)
            yield env.timeout(law.step_s(used, len(decoding), context, prompts, pairs))
            for s in decoding:
                s.tokens += 1
            for s in finished:
                s.tokens = 1
                seen[s.name, 0] = env.now
            for s in [s for s in running if s.tokens >= s.output]:
                seen[s.name, 1] = env.now
                running.remove(s)

    for number, job in enumerate(sorted(jobs)):
        env.process(arrive(number, *job))
    env.process(engine())
    env.run(until=10_000)
    return seen
