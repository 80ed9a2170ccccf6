"""Every error that dask-fmware raises, as one tree ordered by who is to blame.

.. code-block:: text

    FMwareError
    ├── SpecError                      you: what was asked for cannot be served as written
    │   ├── WorkflowError              a workflow that is not a sound graph, or bad arguments for it
    │   ├── DeploymentError            a deployment document or argument
    │   ├── UnknownModelError          a workflow names a model that the deployment does not host
    │   └── ContextOverflowError       prompt plus max_tokens exceed the model's context
    ├── EngineError                    the model server: it failed, or answered against its contract
    │   ├── EngineLoadError            it could not start
    │   ├── EngineCrashedError         it died or stopped while it served
    │   ├── EngineStalledError         it gave a request no token for far too long
    │   └── OutputFormatError          its output breaks the choices or the schema asked for
    ├── CapacityError                  no room: the request was sound, but could not be served now
    │   └── DeadlineRejectedError      refused because it can no longer meet its SLO (on_miss="reject")
    └── RuntimeFaultError              us: the runtime is missing, lost or out of step
        ├── NotInstalledError          the plugins are not installed on the cluster
        ├── VersionMismatchError       client, scheduler and worker speak different versions
        ├── AttemptsExhaustedError     every permitted attempt of a call failed
        ├── PolicyFaultError           a routing policy raised, or its answer is none
        └── StreamLostError            the scheduler of a stream was lost, and the run with it

A message names the thing, the value, the bound and the next step. It never holds a prompt or an
answer: errors travel into logs and dashboards.
"""

from __future__ import annotations

__all__ = [
    "AttemptsExhaustedError",
    "CapacityError",
    "ContextOverflowError",
    "DeadlineRejectedError",
    "DeploymentError",
    "EngineCrashedError",
    "EngineError",
    "EngineLoadError",
    "EngineStalledError",
    "FMwareError",
    "NotInstalledError",
    "OutputFormatError",
    "PolicyFaultError",
    "RuntimeFaultError",
    "SpecError",
    "StreamLostError",
    "UnknownModelError",
    "VersionMismatchError",
    "WorkflowError",
]


class FMwareError(Exception):
    """Base of all errors raised by dask-fmware."""


class SpecError(FMwareError, ValueError):
    """What was asked for cannot be served as written; change the request."""


class WorkflowError(SpecError):
    """A workflow is not a sound graph, or its arguments do not fit it."""


class DeploymentError(SpecError):
    """A deployment document or argument is wrong."""


class UnknownModelError(SpecError):
    """A workflow names a model that the deployment does not host."""


class ContextOverflowError(SpecError):
    """Prompt plus ``max_tokens`` exceed the context of the model."""


class EngineError(FMwareError):
    """The model server failed, or answered against its contract."""


class EngineLoadError(EngineError):
    """An engine could not start."""


class EngineCrashedError(EngineError):
    """An engine died or stopped while it served; the call may be tried elsewhere."""


class EngineStalledError(EngineError):
    """A request has given no token for far longer than was expected."""


class OutputFormatError(EngineError):
    """An engine's output breaks the choices or the schema that were asked for."""


class CapacityError(FMwareError):
    """The request was sound but there was no room for it.

    Attributes
    ----------
    shut_s
        Seconds for which there will be none for any request, where that is known; else 0.
    """

    def __init__(self, message: str = "", *, shut_s: float = 0.0) -> None:
        super().__init__(message)
        self.shut_s = shut_s


class DeadlineRejectedError(CapacityError):
    """A run was refused because it could no longer meet its SLO (``on_miss="reject"``)."""


class RuntimeFaultError(FMwareError):
    """The runtime itself is missing, lost or out of step."""


class NotInstalledError(RuntimeFaultError):
    """The plugins are not installed on the cluster that was asked to run a workflow."""


class VersionMismatchError(RuntimeFaultError):
    """Client, scheduler and worker run different versions of the message protocol."""


class AttemptsExhaustedError(RuntimeFaultError):
    """Every permitted attempt of a call failed; the last cause is chained."""


class PolicyFaultError(RuntimeFaultError):
    """A routing policy raised, or answered what is no answer; the call that it was asked for fails with that."""


class StreamLostError(RuntimeFaultError):
    """The scheduler of a stream was lost, and the run with it; submit it again to a new client."""
