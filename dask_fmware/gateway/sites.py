"""Which pages may ask a gateway without tokens from a browser. It reads headers alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from dask_fmware.errors import SpecError

__all__ = ["checked_names", "is_named", "is_of_another_site"]


def is_of_another_site(headers: Mapping[str, str]) -> bool:
    """Whether a browser sends this for a page from elsewhere, which its user need not know of."""
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("Origin")  # of browsers that do not send the other
    return origin is not None and origin.partition("://")[2] != headers.get("Host")


def is_named(host: str, names: Collection[str]) -> bool:
    """Whether a ``Host`` is an address, a name of the machine itself or one of these names.

    A page from elsewhere can let its own name lead to this machine, and is of the same site then. It cannot do so
    with an address, nor with ``localhost``.

    >>> is_named("127.0.0.1:8000", ()), is_named("Localhost", ()), is_named("evil.example:8000", ())
    (True, True, False)
    """
    name = _name(host)
    if name == "localhost" or name.endswith(".localhost") or name in names:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def checked_names(names: Collection[str]) -> frozenset[str]:
    """Return names of hosts as they are compared.

    Raises
    ------
    SpecError
        If one is no name of a host.
    """
    for name in names:
        if not name.isascii() or not name or _name(name) != name.lower():
            raise SpecError(f"'{name}' is no name of a host; write it like flows.example.org, without a port")
    return frozenset(name.lower() for name in names)


def _name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:  # brackets that hold no address
        return ""
