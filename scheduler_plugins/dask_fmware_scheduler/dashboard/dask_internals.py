"""Everything we touch in the dashboard of `distributed` that carries no public promise, and nothing else.

As `dask_fmware_scheduler.dask_internals` does for the scheduler itself. Verified with distributed 2026.8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import distributed.http
from distributed.scheduler import Scheduler

__all__ = ["DashboardInternals", "dashboard_templates"]


def dashboard_templates() -> str:
    """Folder of the templates of Dask's own pages: ``base.html`` has the navigation."""
    return str(Path(distributed.http.__file__).parent / "templates")


class DashboardInternals:
    """The web server of a scheduler: Scheduler.http_application, distributed.dashboard.

    Everything that is put there is taken away again by `unmount`.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._app: Any = None
        self._first: Any = None
        self._first_class: type | None = None
        self._page = ""
        self._plots: list[dict[str, str]] = []

    def _bokeh_apps(self) -> list[Any]:
        application = getattr(self._scheduler, "http_application", None)
        return [app for app in getattr(application, "applications", ()) if hasattr(app, "app_paths")]

    @property
    def is_there(self) -> bool:
        """Whether the scheduler serves Dask's own dashboard (it does not without Bokeh)."""
        return bool(self._bokeh_apps())

    @property
    def prefix(self) -> str:
        """Path that all pages begin with, as ``/`` or ``/some/where/``."""
        return str(self._bokeh_apps()[0].prefix).rstrip("/") + "/"

    def mount(self, documents: Mapping[str, Callable[..., None]], routes: list[Any]) -> None:
        """Serve Bokeh documents and plain routes beside Dask's own."""
        from distributed.dashboard.core import BokehApplication
        from distributed.dashboard.scheduler import template_variables
        from tornado.ioloop import IOLoop

        self._first = self._bokeh_apps()[0]
        self._app = BokehApplication(
            documents, self._scheduler, prefix=self.prefix, template_variables=template_variables(self._scheduler)
        )
        self._app.add_handlers(r".*", routes)
        self._scheduler.http_application.add_application(self._app)
        self._app.initialize(IOLoop.current())
        self._app.start()
        # /individual-plots.json, which JupyterLab reads, looks at the first application only.
        ours = set(documents)
        self._first_class = known = type(self._first)
        paths = property(lambda app: set(known.app_paths.fget(app)) | ours)
        self._first.__class__ = type(known.__name__, (known,), {"app_paths": paths})

    def navigate(self, page: str, plots: Mapping[str, str]) -> None:
        """Name a page in the navigation of all pages, and plots (by URL) in its menu."""
        from distributed.dashboard.scheduler import template_variables

        variables = template_variables(self._scheduler)  # one dictionary, shared by all pages
        self._page = page
        self._plots = [{"url": url, "name": name} for url, name in plots.items()]
        variables["pages"].insert(1, page)
        variables["plots"].extend(self._plots)
        variables["plots"].sort(key=lambda plot: plot["name"])

    def unmount(self) -> None:
        """Take away what was put there."""
        if self._app is None:
            return
        from distributed.dashboard.scheduler import template_variables

        applications = self._scheduler.http_application.applications
        if self._app in applications:
            applications.remove(self._app)
            self._app.stop(wait=False)  # since 3.10 Bokeh refuses to wait inside the event loop
        if self._first_class is not None:
            self._first.__class__ = self._first_class
        variables = template_variables(self._scheduler)
        if self._page in variables["pages"]:
            variables["pages"].remove(self._page)
        for plot in self._plots:
            if plot in variables["plots"]:
                variables["plots"].remove(plot)
        self._app, self._plots = None, []
