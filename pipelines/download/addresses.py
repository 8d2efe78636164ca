"""Addresses as strangers write them: where to ask, and for what."""

from __future__ import annotations

import re
from urllib.parse import quote, urljoin, urlsplit

from pipelines.download.network import Origin
from pipelines.download.reasons import FetchError
from pipelines.public_url import public


def host_of(origin: Origin) -> str:
    """As it stands in an address."""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return host if origin.port == (443 if origin.scheme == "https" else 80) else f"{host}:{origin.port}"


def joined(url: str, location: str) -> str:
    """Where a redirect leads to. Raises FetchError for what is no address."""
    try:  # http.client reads bytes as Latin-1, but hosts write UTF-8 into headers, or what their files are called
        location = location.encode("latin-1").decode("utf-8")
    except UnicodeError:
        location = "".join(c if c.isascii() or ord(c) > 255 else f"%{ord(c):02X}" for c in location)
    try:
        url = urljoin(url, location)
        urlsplit(url)
    except ValueError as error:
        raise FetchError("redirect_refused", f"to {public(location)[:200]}: {error}") from None
    return url


def split(url: str) -> tuple[Origin, str]:
    """Origin and request target of an address, with whatever strangers write in one quoted. Raises FetchError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise FetchError("bad_url", f"{public(url)[:200]}: {error}") from None
    scheme, host = parts.scheme.lower(), parts.hostname or ""
    if scheme not in ("http", "https") or not host or port == 0:
        raise FetchError("bad_url", f"{public(url)[:200]}: not an http(s) address with a host")
    try:
        host = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise FetchError("bad_url", f"{host[:100]}: {error}") from None
    if re.search(r"[\s\x00-\x20\x7f/\\@?#]", host):
        raise FetchError("bad_url", f"{host[:100]!r}: not a host name")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if not path.startswith("/"):
        path = f"/{path}"
    query = "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?[]|{}^`") if parts.query else ""
    return Origin(scheme, host, port or (443 if scheme == "https" else 80)), path + query
