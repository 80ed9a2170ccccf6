"""The workflows that callers may run, and who they are. It knows no HTTP."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from distributed import Client, Future

from dask_fmware.client.asking import checked_client
from dask_fmware.client.session import Outcome, Session
from dask_fmware.client.stream import AnswerStream
from dask_fmware.compile.collection import BoundWorkflow, WorkflowFunction
from dask_fmware.errors import SpecError
from dask_fmware.gateway.answers import text_of
from dask_fmware.model.completion import Chunk
from dask_fmware.spec.record import checked
from dask_fmware.spec.slo import SLO, RunOptions

__all__ = ["Gateway", "checked_tenants"]


def checked_tenants(tenants: Mapping[str, str]) -> Mapping[str, str]:
    """Return tenants by token, if headers can bring each token and runs can have each tenant.

    Raises
    ------
    SpecError
        If not; it shows no token.
    """
    for token, tenant in tenants.items():
        if not token:
            raise SpecError("a token is empty; each tenant needs one")
        checked(RunOptions, {"tenant": tenant}, SpecError, "a tenant of a token")
        if not token.isascii() or not token.isprintable() or " " in token:
            raise SpecError(f"the token of tenant '{tenant}' does not fit into a header; use ASCII without spaces")
    return tenants


class Gateway:
    """Runs workflows for callers.

    Parameters
    ----------
    client
        An asynchronous one, of a cluster with the runtime.
    workflows
        What may be run, by name.
    tenants
        Token to tenant: who brings no token is refused, and each runs as its tenant. Without, callers name a tenant
        themselves.
    max_priority
        The highest that a caller may ask for; lower ones are always open.

    Raises
    ------
    SpecError
        If two workflows have one name or there is none, or a token or tenant is of no use.
    """

    def __init__(
        self,
        client: Client,
        workflows: Iterable[WorkflowFunction],
        *,
        tenants: Mapping[str, str] | None = None,
        max_priority: int = 0,
    ) -> None:
        self.client = checked_client(client, "Gateway")
        self.workflows: dict[str, WorkflowFunction] = {}
        for one in workflows:
            name = one.workflow.name
            if name in self.workflows:
                raise SpecError(f"two workflows are named '{name}'; rename one with fm.workflow(..., name=...)")
            self.workflows[name] = one
        if not self.workflows:
            raise SpecError("a gateway needs at least one workflow")
        known = None if tenants is None else checked_tenants(tenants)
        self._tenants = None if known is None else {token.encode(): tenant for token, tenant in known.items()}
        self._max_priority = max_priority
        self._session = Session(client)
        self.requests: dict[asyncio.Task[None], object] = {}  # under way, with the port that each came to

    @property
    def needs_token(self) -> bool:
        """Whether callers must bring one."""
        return self._tenants is not None

    def tenant_of(self, token: str) -> str | None:
        """Return whose token this is, or None."""
        given, found = token.encode(errors="replace"), None
        for known, tenant in (self._tenants or {}).items():
            if hmac.compare_digest(known, given):  # and look at all: the time tells nothing
                found = tenant
        return found

    def bound(
        self,
        name: str,
        inputs: Mapping[str, Any],
        *,
        caller: str | None = None,
        tenant: str | None = None,
        slo: SLO | None = None,
        priority: int | None = None,
    ) -> BoundWorkflow:
        """Return a run to be.

        Parameters
        ----------
        name
            Of a workflow that is there.
        inputs
            Values by name, as JSON has them.
        caller
            Tenant of the token that was brought.
        tenant, slo, priority
            What the caller asks for.

        Raises
        ------
        SpecError
            If an input or option does not fit, or is not the caller's to choose.
        """
        if caller is not None and tenant not in (None, caller):
            raise SpecError(f"tenant '{tenant}': this token is of tenant '{caller}'; leave it out")
        if priority is None:
            priority = min(0, self._max_priority)
        if priority > self._max_priority:
            raise SpecError(f"priority {priority}: callers of this gateway may ask for {self._max_priority} at most")
        bound = self.workflows[name].bind_plain(inputs).options(tenant=caller or tenant, priority=priority)
        return bound.options(slo=slo) if slo is not None else bound

    async def outcome(self, bound: BoundWorkflow) -> Outcome:
        """Run it to its end; who is cancelled cancels it."""
        outcome: Outcome = await self._session.outcome(bound)
        return outcome

    async def pieces(self, bound: BoundWorkflow) -> AsyncGenerator[Chunk | Outcome, None]:
        """Yield the answer as it comes and, at the end, what became of the run; who stops reading cancels it."""
        future = await self._session.submit(bound)
        try:
            async with aclosing(self._followed(future, bound.workflow.name)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            future.release()

    async def _followed(self, future: Future, workflow: str) -> AsyncGenerator[Chunk | Outcome, None]:
        answer = AnswerStream(future, partial(text_of, workflow))
        try:
            async with aclosing(aiter(answer)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    yield chunk
        except Exception:
            outcome = await self._session.outcome(future)
            if outcome.error is None:  # it is not the run that has failed
                raise
            yield outcome
        else:
            yield await self._session.outcome(future)
