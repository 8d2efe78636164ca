"""Addresses without what opens doors: a name and password before the host, and what signs or unlocks a request.

Links of strangers hold both. A login in a link is never sent and leaves the link where a table is read (`without_login`). A signature
has to be sent, or a private bucket gives nothing: it stays in the run's own tables, and everything that others may see has `public`.
"""

from __future__ import annotations

import re
from typing import overload

import pyarrow as pa
import pyarrow.compute as pc

_BEFORE_HOST = r"^([a-z][a-z0-9+.-]*:)?//[^/?#]*@"
_LOGIN = re.compile(_BEFORE_HOST, re.I)
_LOGINS = re.compile(r"//[^/?#\s\"']*@")
_SECRET = (
    "x-amz-[^=]*|awsaccesskeyid|x-goog-[^=]*|googleaccessid|sig|signature|policy|key-pair-id"  # S3, GCS, Azure, CloudFront
    "|ossaccesskeyid|x-oss-(?:signature|credential|security-token)[^=]*|accesskeyid|security-token|auth_key"  # OSS, OBS, CDNs
    "|q-(?:ak|signature)|x-cos-security-token"  # COS
    "|token|access_token|auth_token|id_token|api_?key|password|passwd|pwd|secret"
)
_OPENS = rf"(?i){_BEFORE_HOST}|[?&](?:{_SECRET})="
_PARAMETER = re.compile(rf"(?:{_SECRET})=", re.I)


def without_login(url: str) -> str:
    return _LOGIN.sub(lambda found: f"{found[1] or ''}//", url, count=1)


def without_logins(text: str) -> str:
    """Any text, such as a row that could not be read."""
    return _LOGINS.sub("//", text)


@overload
def public(url: str) -> str: ...
@overload
def public(url: None) -> None: ...
def public(url: str | None) -> str | None:
    """The address as others may see it. A signed one no longer leads them to the picture."""
    if url is None:
        return None
    url = without_login(url)
    before, mark, rest = url.partition("?")
    if not mark:
        return url
    query, hash_mark, fragment = rest.partition("#")
    kept = "&".join(pair for pair in query.split("&") if not _PARAMETER.match(pair))
    return before + (f"?{kept}" if kept or not query else "") + hash_mark + fragment


def public_column(urls: pa.ChunkedArray) -> pa.ChunkedArray:
    """`public` of a column of addresses, nulls included, at the price of a look where none opens anything."""
    if not pc.any(pc.match_substring_regex(urls, _OPENS)).as_py():
        return urls
    return pa.chunked_array([[public(url) for url in urls.to_pylist()]], pa.string())
