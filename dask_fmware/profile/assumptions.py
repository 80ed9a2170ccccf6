"""What a plan takes for granted: tokens, odds, rounds and items, by node; checked against the nodes that there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import inf
from numbers import Real
from typing import Any

from dask_fmware.errors import SpecError
from dask_fmware.spec.record import did_you_mean, shorten
from dask_fmware.spec.scopes import inner
from dask_fmware.spec.workflow import AnyNode, LoopNode, MapNode, ModelNode, SwitchNode, TaskNode, Workflow

__all__ = ["PROMPT_TOKENS", "Assumptions", "of_unsized"]

PROMPT_TOKENS = 256  # of a call, where nothing better is known
ABOUT: Mapping[str, type[AnyNode]] = {
    "prompt_tokens": ModelNode,
    "output_tokens": ModelNode,
    "task_s": TaskNode,
    "odds": SwitchNode,
    "rounds": LoopNode,
    "items": MapNode,
}


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What a plan takes for granted; every table says it."""

    prompt_tokens: int | Mapping[str, int] = PROMPT_TOKENS  # of a call, or by node
    output_tokens: Mapping[str, int] = field(default_factory=dict)  # by node; else max_tokens or the longest label
    task_s: Mapping[str, float] = field(default_factory=dict)  # of task nodes; 0 otherwise
    odds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # of branches by switch; else even
    rounds: Mapping[str, float] = field(default_factory=dict)  # of loops, for cost; their bound otherwise
    items: Mapping[str, float] = field(default_factory=dict)  # of maps; 1 otherwise

    @classmethod
    def of(cls, given: Mapping[str, Any], workflows: Sequence[Workflow]) -> Assumptions:
        """Make them from keyword arguments.

        Parameters
        ----------
        given
            Values by the names of the fields.
        workflows
            What is planned; each node that a value is given for is in one of them.

        Raises
        ------
        SpecError
            There is no such assumption, node or branch, or a value is no number.
        """
        known = [item.name for item in fields(cls)]
        for name, value in given.items():
            if name not in known:
                raise SpecError(
                    f"no assumption is called '{name}'{did_you_mean(name, known)} (known: {', '.join(known)})"
                )
            _check_values(name, value)
        made = cls(**given)
        made._check_names(workflows)
        return made

    def unsized(self, workflow: Workflow) -> tuple[str, ...]:
        """Maps of a workflow of which nobody has said how many items they have: each is planned with 1."""
        maps = (node.name for node in workflow.block.walk() if isinstance(node, MapNode))
        return tuple(name for name in maps if name not in self.items)

    def _check_names(self, workflows: Sequence[Workflow]) -> None:
        nodes = [node for workflow in workflows for node in workflow.block.walk()]
        for name, kind in ABOUT.items():
            table = getattr(self, name)
            if isinstance(table, Mapping):
                there = [node.name for node in nodes if isinstance(node, kind)]
                _check_keys(table, there, f"{name}: no {_kind(kind)} is called")
        for switch, odds in self.odds.items():
            labels = [held.label for node in nodes if node.name == switch for held in inner(node)]
            _check_keys(odds, labels, f"odds: switch '{switch}' has no branch")


def of_unsized(maps: Sequence[str]) -> list[str]:
    """Return the line on `Assumptions.unsized`: what is planned with, and what to give; nothing if there are none."""
    if not maps:
        return []
    named = ", ".join(f"'{name}'" for name in maps)
    planned = f"map {named} is planned with 1 item" if len(maps) == 1 else f"maps {named} are planned with 1 item each"
    return [f"{planned}: say how many a run has as a rule, such as items={dict.fromkeys(maps, 20)}"]


def _kind(node: type[AnyNode]) -> str:
    kind: str = node.model_fields["kind"].default
    return f"{kind} node" if kind in ("model", "task") else kind


def _check_keys(table: Iterable[str], there: Sequence[str], what: str) -> None:
    for key in table:
        if key not in there:
            known = ", ".join(dict.fromkeys(there)) or "none"
            raise SpecError(f"{what} '{shorten(str(key))}'{did_you_mean(str(key), there)} (known: {known})")


def _check_values(name: str, value: Any) -> None:
    if name == "prompt_tokens" and not isinstance(value, Mapping):
        return _check_number(name, value, "of tokens, or one for each node: {'answer': 200}")
    example = "{'switch': {'yes': 0.9, 'no': 0.1}}" if name == "odds" else "{'name': 3}"
    if not isinstance(value, Mapping) or (name == "odds" and not all(isinstance(v, Mapping) for v in value.values())):
        raise SpecError(f"{name}={shorten(repr(value))}: give its numbers by node, such as {name}={example}")
    for key, one in value.items():
        numbers = one.items() if isinstance(one, Mapping) else [("", one)]
        for label, number in numbers:
            _check_number(f"{name} of '{key}'" + (f", branch '{label}'" if label else ""), number, "of at least 0")
    return None


def _check_number(what: str, value: Any, wanted: str) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < inf:
        raise SpecError(f"{what} is {shorten(repr(value))}; give a number {wanted}")
