"""Messages between client, scheduler and workers: plain dictionaries with a version, built and read here.

Worker streams carry them in order, so a message sent before a task's result is handled before it.
They hold ids, counts and durations, never a prompt or an answer; `Carried` alone holds a value, which is opened where
it is needed and nowhere on its way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, asdict, field, fields
from math import inf
from types import NoneType
from typing import Any, ClassVar, Literal, Self, TypeAlias, get_args, get_origin, get_type_hints

from dask_fmware.errors import VersionMismatchError
from dask_fmware.model.engine import EngineState
from dask_fmware.model.immutable import immutable
from dask_fmware.model.replica import Replica
from dask_fmware.spec.deployment import Latency

__all__ = [
    "PROTOCOL_VERSION",
    "STREAM_INTERVAL_S",
    "AttemptEnded",
    "Branched",
    "Carried",
    "EngineStateReport",
    "FirstToken",
    "GiveBack",
    "GiveUp",
    "Grant",
    "Overdue",
    "ReplicaFailed",
    "ReplicaReady",
    "RunsAsked",
    "StepsTimed",
    "check_version",
]

PROTOCOL_VERSION = 17  # raise it also when a default changes: a field with its default does not travel
STREAM_INTERVAL_S = 50e-6  # between two messages: a hop between two tasks takes 1.3 ms, not 6; zero has worse tails
TRAVELS = "travels"  # of a field that is sent even if it has its default
ENDLESS = "endless"  # of a number that may be infinite


def check_version(theirs: object, who: str) -> None:
    """Raise VersionMismatchError unless `theirs` is the version spoken here."""
    if theirs != PROTOCOL_VERSION:
        raise VersionMismatchError(
            f"{who} speaks message version {theirs}, this side {PROTOCOL_VERSION}; "
            "install the same dask-fmware on client, scheduler and workers"
        )


class _Message:
    """Reading and writing; the fields of a class are looked up once."""

    op: ClassVar[str]
    __slots__ = ()

    def to_wire(self) -> dict[str, Any]:
        """Return the message as a dictionary of plain values, with its ``op``; what has its default stays away."""
        wire: dict[str, Any] = {"op": self.op}
        for name, default in _fields(type(self)):
            value = getattr(self, name)
            if value is not default:
                wire[name] = value
        return wire

    @classmethod
    def from_wire(cls, message: dict[str, Any]) -> Self:
        """Read a message; fields of newer senders are ignored, a field that is missing is another version."""
        fits = _FITS.get(cls) or _fits_of(cls)
        for name, value in message.items():
            if (rule := fits.get(name)) is not None and not rule(value):
                raise _misfit(cls.op, name, value)
        try:
            return cls(**message)
        except TypeError:  # of another version
            pass
        known = _fields(cls)
        missing = [name for name, default in known if default is MISSING and name not in message]
        if missing:
            raise VersionMismatchError(
                f"message '{cls.op}' lacks {', '.join(missing)} (version {PROTOCOL_VERSION} is spoken here); "
                "install the same dask-fmware on client, scheduler and workers"
            )
        return cls(**{name: message[name] for name, _ in known if name in message})


_FIELDS: dict[type, tuple[tuple[str, Any], ...]] = {}


def _fields(kind: type[Any]) -> tuple[tuple[str, Any], ...]:
    """Names of a message's fields and their defaults, MISSING for what must travel; looked up once for each class."""
    known = _FIELDS.get(kind)
    if known is None:
        known = _FIELDS[kind] = tuple((f.name, MISSING if f.metadata.get(TRAVELS) else f.default) for f in fields(kind))
    return known


Rule: TypeAlias = Callable[[Any], bool]
_FITS: dict[type, dict[str, Rule]] = {}


def _fits_of(kind: type[Any]) -> dict[str, Rule]:
    """What the values of a message must be, by field; worked out once for each class."""
    hints = get_type_hints(kind)
    made = _FITS[kind] = {f.name: _rule(hints[f.name], f.metadata.get(ENDLESS, False)) for f in fields(kind)}
    return made


def _rule(hint: Any, is_endless: bool = False) -> Rule:
    """A test of values: numbers are finite and counts not negative, unless that is said."""
    origin, of = get_origin(hint), get_args(hint)
    if origin is Literal:
        return lambda value: isinstance(value, str) and value in of
    if origin is tuple and of[-1] is Ellipsis:
        every = _rule(of[0])
        return lambda value: isinstance(value, tuple) and all(map(every, value))
    if origin is tuple:
        rules = [_rule(one) for one in of]
        return lambda value: (
            isinstance(value, tuple)
            and len(value) == len(rules)
            and all(rule(one) for rule, one in zip(rules, value, strict=True))
        )
    if origin is dict:
        key, item = _rule(of[0]), _rule(of[1])
        return lambda value: isinstance(value, dict) and all(key(k) and item(v) for k, v in value.items())
    if of and NoneType in of:
        (other,) = [one for one in of if one is not NoneType]
        rule = _rule(other)
        return lambda value: value is None or rule(value)
    if hint is int:
        return lambda value: isinstance(value, int) and value >= 0
    if hint is float:
        return lambda value: isinstance(value, (float, int)) and (abs(value) < inf or (is_endless and value == value))
    assert hint in (str, bool, bytes), f"{hint} has no rule"
    instance: Rule = hint.__instancecheck__
    return instance


def _misfit(op: str, name: str, value: object) -> VersionMismatchError:
    """Say what does not fit, without its text, which may be anything."""
    shown = repr(value) if isinstance(value, (int, float)) and abs(value) < 1e15 else f"a {type(value).__name__}"
    return VersionMismatchError(
        f"message '{op}': {name} is {shown}, which version {PROTOCOL_VERSION} does not send; "
        "install the same dask-fmware on client, scheduler and workers"
    )


@immutable
class Grant(_Message):
    """Scheduler to worker: this call may run here, as this attempt, when a slot is free. Precedes its Dask task."""

    op: ClassVar[str] = "fmware-grant"
    call_id: str
    attempt: int
    priority: float = field(default=0.0, metadata={ENDLESS: True})
    stall_s: float = 0.0  # without a token, after which the attempt is given up; 0 is never
    incarnation: int = 0  # of the engine that is meant
    wait_s: float = 0.0  # for a slot, after which the call is given back; 0: one is free, or will be
    overdue_s: float = 0.0  # in its slot without a token, after which the worker says that it is overdue; 0 is never


@immutable
class GiveUp(_Message):
    """Scheduler to worker: end an attempt if it has no token yet, so that its call is tried elsewhere."""

    op: ClassVar[str] = "fmware-give-up"
    call_id: str
    attempt: int


@immutable
class GiveBack(_Message):
    """Scheduler to worker: it takes no tasks, so what it was granted and has not begun is to run elsewhere."""

    op: ClassVar[str] = "fmware-give-back"


@immutable
class Overdue(_Message):
    """Worker to scheduler: an attempt has no token yet; said again each time it has waited `AGAIN` times as long."""

    op: ClassVar[str] = "fmware-overdue"
    AGAIN: ClassVar[float] = 1.5  # times as long a wait, and it is said again
    call_id: str
    attempt: int


@immutable
class FirstToken(_Message):
    """Worker to scheduler: the first text of an answer is there; what a model thinks before it nobody sees."""

    op: ClassVar[str] = "fmware-first-token"
    call_id: str
    attempt: int
    ttft_s: float  # since the attempt reached the replica


@immutable
class AttemptEnded(_Message):
    """Worker to scheduler: the engine slot of an attempt is free.

    "undelivered": it never began. The worker says so of one that waited too long for its slot or whose engine died
    meanwhile, the scheduler itself of an assignment that never left for its replica.
    """

    op: ClassVar[str] = "fmware-ended"
    call_id: str
    attempt: int
    outcome: Literal["finished", "failed", "retry", "aborted", "skipped", "undelivered"]
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    ttft_s: float | None = None  # of the engine, whoever sees it
    latency_s: float | None = None  # in the engine
    waited_s: float = 0.0  # for a slot, before that
    error: str = ""  # type and message of the cause, for "failed" and "retry"
    is_repaired: bool = False  # the answer had to be mended to have the format asked for
    format_tokens: int | None = None  # output tokens that the format took; None: no format was asked for
    cost: float | None = None  # in the currency of the engine's prices; None: it has none
    is_sound: bool = False  # "retry": the answer or a bound was the cause, which says nothing against the engine
    shut_s: float = 0.0  # "retry": for so long its engine has no room for any call
    hidden_s: float = 0.0  # from the first token of an answer to the first text of it: it was thought, or held back


@immutable
class StepsTimed(_Message):
    """Worker to scheduler, at most a few times a second: what engine steps took, and how far its attempts are."""

    op: ClassVar[str] = "fmware-steps"
    replica_id: str
    profile: str = ""  # fingerprint of the profile that the steps are compared with
    steps: tuple[tuple[float, float, float, float], ...] = ()  # `StepReport`s: decode, prefill, measured s, steps
    tokens: tuple[tuple[str, int, int], ...] = ()  # (call id, attempt, output tokens) of those under way


@immutable
class Branched(_Message):
    """Worker to scheduler: a switch has taken a branch; sent before the result of the node that decided it."""

    op: ClassVar[str] = "fmware-branched"
    run_id: str
    switch: str
    branch: int | None  # None: no branch at all (the value was skipped or matched nothing)


@immutable
class Carried(_Message):
    """A small result that needs not be fetched: to the scheduler ahead of its end, to a worker ahead of its use."""

    op: ClassVar[str] = "fmware-carried"
    key: str
    value: bytes = field(repr=False)  # pickled


@immutable
class RunsAsked(_Message):
    """Client to scheduler: compute the tasks of some runs, as a graph of Dask says, with nothing left to work out."""

    op: ClassVar[str] = "fmware-runs"
    tasks: bytes = field(repr=False)  # pickled: tasks by key in the order of their priorities, and their annotations
    outputs: tuple[str, ...]  # keys of the tasks whose results are wanted


@immutable
class ReplicaReady(_Message):
    """Worker to scheduler: the engine of this worker serves."""

    op: ClassVar[str] = "fmware-ready"
    name: str
    model: str
    accelerator: str
    card: str
    slots: int
    context_tokens: int
    longest_token_bytes: int
    engine: str
    engine_version: str
    latency: dict[str, float]
    load_s: float
    profile: str | None = None  # JSON of `dask_fmware.profile.record.LiveProfile`, if its speed was measured
    card_slots: int | None = None  # calls at once over all replicas of its card; None: no bound but their slots
    incarnation: int = 0  # engines that died on this worker before
    version: int = field(default=PROTOCOL_VERSION, metadata={TRAVELS: True})

    def replica(self, worker: str) -> Replica:
        """Return the replica that this message announces, on the worker at an address."""
        check_version(self.version, f"worker {worker}")
        for name in ("slots", "context_tokens", "longest_token_bytes"):
            if getattr(self, name) < 1:
                raise _misfit(self.op, name, getattr(self, name))
        mine = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("latency", "version")}
        try:
            latency = Latency(**self.latency)
        except ValueError:
            raise _misfit(self.op, "latency", self.latency) from None
        return Replica(replica_id=worker, latency=latency, **mine)


@immutable
class ReplicaFailed(_Message):
    """Worker to scheduler: the engine of this worker could not start, or died."""

    op: ClassVar[str] = "fmware-replica-failed"
    name: str
    model: str
    accelerator: str
    error: str
    will_retry: bool = False
    incarnation: int = 0  # of the engine that died


@immutable
class EngineStateReport(_Message):
    """Worker to scheduler, a few times a second while it changes: the state of its engine, as `EngineState`."""

    op: ClassVar[str] = "fmware-engine-state"
    running: int
    waiting: int
    kv_used: float | None = None
    prefix_queried_tokens: int | None = None
    prefix_hit_tokens: int | None = None
    preemptions: int | None = None

    @classmethod
    def of(cls, state: EngineState) -> Self:
        """Return the report of a state."""
        return cls(**asdict(state))
