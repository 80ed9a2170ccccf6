"""Whether a run can be served at all, decided once, when it is submitted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dask_fmware.errors import (
    CapacityError,
    ContextOverflowError,
    FMwareError,
    RuntimeFaultError,
    UnknownModelError,
    WorkflowError,
)
from dask_fmware.model.plan import PlannedNode, RunPlan
from dask_fmware.spec.deployment import LONGEST_TOKEN_BYTES
from dask_fmware.spec.embedding import wrong_use

__all__ = ["ModelLimits", "least_prompt_tokens", "orphaned", "refusal"]


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What bounds a call of a model, and what it gives: as deployed, and as its replicas tell."""

    context_tokens: int
    longest_token_bytes: int = LONGEST_TOKEN_BYTES
    embeds: bool | None = None  # whether it gives vectors and no text; None: nobody says


def least_prompt_tokens(prompt_bytes: int, limits: ModelLimits) -> int:
    """Tokens that a prompt of so many bytes has at least: no token is longer than the longest."""
    return -(-prompt_bytes // limits.longest_token_bytes)


def refusal(
    plan: RunPlan,
    *,
    limits: Callable[[str], ModelLimits | None],
    hosted: Callable[[], Iterable[str]],
    held: int = 0,
    max_held: int | None = None,
) -> FMwareError | None:
    """Why a run cannot be served, or None.

    All models have to be there, and give what is asked of them. Prompts have to fit where it is certain that they are
    sent; of a branch that is decided later, the engine says so.

    Parameters
    ----------
    plan
        The run, or a body of one of its maps and loops.
    limits
        Limits of a model by name; None for one that is not deployed.
    hosted
        Returns the names of the models that are, for the message.
    held, max_held
        Calls held by the runtime, and their bound. A body of an accepted run is never refused for it.
    """
    decided = set(plan.decided)
    for node in plan.nodes:
        if node.model is None:
            continue
        known = limits(node.model)
        if known is None:
            return UnknownModelError(
                f"{_where(plan, node)}: no replica hosts model '{node.model}' "
                f"(hosted: {', '.join(sorted(hosted())) or 'none'}); add it to the deployment"
            )
        if known.embeds not in (None, node.embeds):
            return WorkflowError(f"{_where(plan, node)}: {wrong_use(node.model, node.embeds)}")
        is_certain = all((guard.switch, guard.branch) in decided for guard in node.guards)
        prompt = least_prompt_tokens(node.prompt_bytes, known)
        if is_certain and prompt + node.max_tokens > known.context_tokens:
            return ContextOverflowError(
                f"{_where(plan, node)}: a prompt of at least {prompt} tokens and max_tokens={node.max_tokens} "
                f"exceed the context of model '{node.model}' ({known.context_tokens} tokens); "
                "shorten the prompt, lower max_tokens or raise context_tokens in the deployment"
            )
    if plan.part_of is None and max_held is not None and held >= max_held:
        return CapacityError(
            f"workflow '{plan.workflow}': {held} calls are held already, the bound is {max_held} "
            "(router.max_held); submit again later"
        )
    return None


def orphaned(plan: RunPlan) -> FMwareError:
    """Why a body cannot be served whose run is not live."""
    return RuntimeFaultError(
        f"workflow '{plan.workflow}': a body of a map or loop came for run '{plan.part_of}', which was dropped or is "
        "not known to this router; submit the run again if its result is wanted"
    )


def _where(plan: RunPlan, node: PlannedNode) -> str:
    return f"workflow '{plan.workflow}', node '{node.name}'"
