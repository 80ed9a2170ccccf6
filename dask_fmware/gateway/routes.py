"""What is answered where: runs, lists of what may be run, and how the gateway is."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import ClassVar

from tornado.web import Application

from dask_fmware.gateway.answers import RefusedError
from dask_fmware.gateway.chat import model, models, no_model
from dask_fmware.gateway.gateway import Gateway
from dask_fmware.gateway.handler import ENDING, NAMES, Handler
from dask_fmware.gateway.runs import Chat, Embeddings, Workflow

__all__ = ["application"]

NO_PAGE = (
    "no such page: see GET /workflows and GET /v1/models; POST to /workflows/NAME, or to /v1/chat/completions and "
    "/v1/embeddings, which are all of OpenAI's protocol that runs something here"
)


class _Workflows(Handler):
    """``GET /workflows``."""

    def get(self) -> None:
        specs = [one.workflow for one in self.gateway.workflows.values()]
        self.tell({"workflows": [
            {
                "name": spec.name,
                "description": spec.description,
                "inputs": [item.model_dump(mode="json") for item in spec.inputs],
                "slo": None if spec.slo is None else spec.slo.model_dump(mode="json", exclude_none=True),
            }
            for spec in specs
        ]})  # fmt: skip


class _Models(Handler):
    """``GET /v1/models``."""

    def get(self) -> None:
        self.tell(models([one.workflow for one in self.gateway.workflows.values()]))


class _Model(Handler):
    """``GET /v1/models/NAME``."""

    def get(self, name: str) -> None:
        if name not in self.gateway.workflows:
            raise no_model(name)
        self.tell(model(self.gateway.workflows[name].workflow))


class _Health(Handler):
    """``GET /health``: whether there is a scheduler."""

    is_open: ClassVar[bool] = True

    def get(self) -> None:
        is_well = self.gateway.client.status == "running"
        self.set_status(200 if is_well else 503)
        self.tell({"status": "ok" if is_well else "no scheduler"})


class _Nothing(Handler):
    """Whatever else is asked for."""

    is_open: ClassVar[bool] = True

    def admit(self) -> None:
        raise RefusedError(404, NO_PAGE)


def application(gateway: Gateway, ending: asyncio.Event, names: Collection[str] | None = None) -> Application:
    """Return the routes, which take no more requests when it is `ending`.

    Where there are `names`, callers without tokens must ask for a host of one of them, or of this machine.
    """
    own = {"gateway": gateway}
    return Application(
        [
            (r"/health", _Health, own),
            (r"/workflows", _Workflows, own),
            (r"/workflows/([^/]+)", Workflow, own),
            (r"/v1/models", _Models, own),
            (r"/v1/models/([^/]+)", _Model, own),
            (r"/v1/chat/completions", Chat, own),
            (r"/v1/embeddings", Embeddings, own),
        ],
        default_handler_class=_Nothing,
        default_handler_args=own,
        **{ENDING: ending, NAMES: names},
        log_function=lambda handler: None,  # each run is in the log of the runtime
    )
