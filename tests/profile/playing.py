"""Experiments played step by step on a law, with tokens that reach us late."""

from __future__ import annotations

import random

from dask_fmware.profile.experiments import Experiment
from dask_fmware.profile.law import StepLaw, chunk_pairs
from dask_fmware.profile.observed_steps import RequestTrace


def played(
    experiment: Experiment, law: StepLaw, slots: int, step_tokens: int = 1 << 30, jitter: float = 0.0, seed: int = 0
) -> list[RequestTrace]:
    """Return what comes of an experiment; `jitter` delays each token by up to that share of its step."""
    draw = random.Random(seed)
    wanted = [*experiment.background, *experiment.probes]
    submitted: dict[int, float] = dict.fromkeys(range(len(experiment.background)), 0.0)
    if not experiment.background:
        submitted = dict.fromkeys(range(len(wanted)), 0.0)
    done = [0] * len(wanted)
    tokens = [0] * len(wanted)
    arrivals: list[list[tuple[float, int]]] = [[] for _ in wanted]
    now = 0.0
    probes = range(len(experiment.background), len(wanted))
    while any(tokens[n] < wanted[n][1] for n in (probes or range(len(wanted)))):
        admitted = [n for n in sorted(submitted, key=submitted.__getitem__) if tokens[n] < wanted[n][1]][:slots]
        decoding = [n for n in admitted if tokens[n]]
        room = max(step_tokens - len(decoding), 0)
        used = prompts = 0
        pairs = 0.0
        first: list[int] = []
        for n in admitted:
            if tokens[n] or used == room:
                continue
            share = min(wanted[n][0] - done[n], room - used)
            pairs += chunk_pairs(share, done[n])
            done[n] += share
            used += share
            prompts += 1
            if done[n] == wanted[n][0]:
                first.append(n)
        context = sum(wanted[n][0] + tokens[n] for n in decoding)
        took_s = law.step_s(used, len(decoding), context, prompts, pairs)
        now += took_s
        for n in (*decoding, *first):
            tokens[n] += 1
            arrivals[n].append((now + draw.random() * jitter * law.step_s(0, 1, 1), 1))
        if len(submitted) < len(wanted) and all(tokens[n] >= experiment.lead_tokens for n in submitted):
            submitted |= dict.fromkeys(probes, now + 0.3 * took_s)
    return [
        RequestTrace(submitted[n], wanted[n][0], 0, tuple(arrivals[n]), tokens[n] >= wanted[n][1])
        for n in range(len(wanted))
    ]
