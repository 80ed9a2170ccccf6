"""What an ``openai`` engine takes of a deployment, checked: addresses and prices."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from dask_fmware.errors import DeploymentError

__all__ = ["checked_prices", "checked_url", "needs_no_proxy"]

PRICES = ("input", "cached_input", "output")


def checked_url(base_url: str) -> str:
    """Return an address that holds no secret.

    Raises
    ------
    DeploymentError
        If it is no http or https address, or has a user, password or query; it repeats nothing that could be one.

    Examples
    --------
    >>> checked_url("http://10.0.0.7:8000/v1")
    'http://10.0.0.7:8000/v1'
    """
    if not isinstance(base_url, str):
        raise DeploymentError(
            f"openai: base_url={base_url!r} is a {type(base_url).__name__}; write http://host:8000/v1"
        )
    try:
        parts = urlsplit(base_url)
        is_read = base_url.isprintable() and " " not in base_url and parts.port != 0
        (parts.hostname or "").encode("idna")  # as it is looked up; a UnicodeError is a ValueError
    except ValueError:
        is_read = False
    if not is_read:
        raise DeploymentError(
            "openai: base_url has a host or port that is none, or white space; write http://host:8000/v1"
        )
    if parts.username or parts.password or parts.query:
        raise DeploymentError(
            f"openai: base_url at '{parts.hostname}' holds a user, password or query; give the key by api_key_env or "
            "api_key_file"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DeploymentError(f"openai: base_url={base_url!r} is no http or https address, such as http://host:8000/v1")
    return base_url


def needs_no_proxy(base_url: str) -> bool:
    """Whether an address is plain HTTP to this very machine, which no proxy of the environment could reach.

    >>> needs_no_proxy("http://127.0.0.1:8000/v1"), needs_no_proxy("https://api.example.com/v1")
    (True, False)
    """
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    try:
        return parts.scheme == "http" and (host == "localhost" or ip_address(host).is_loopback)
    except ValueError:
        return False


def checked_prices(prices: Mapping[str, float] | None) -> dict[str, float] | None:
    """Return prices of a million tokens, by kind.

    Raises
    ------
    DeploymentError
        If input or output is missing, a kind is unknown or a price is no sound number.
    """
    if prices is None:
        return None
    if not {"input", "output"} <= set(prices) <= set(PRICES) or not all(0 <= price < 1e9 for price in prices.values()):
        raise DeploymentError(
            f"openai: price_per_million_tokens={dict(prices)} must give input and output, and may give cached_input, "
            "each at least 0"
        )
    return dict(prices)
