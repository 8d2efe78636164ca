"""Why a row yields no picture, and whether asking again later could help."""

from __future__ import annotations

REASONS: dict[str, tuple[str, bool]] = {
    "dns": ("the host's name has no address", False),
    "dns_failed": ("the name server did not answer, or said to try again", True),
    "connect_timeout": ("the host did not take the connection in time", True),
    "connection": ("the connection was refused or broke", True),
    "unreachable": ("there is no way to the host's network", True),
    "tls": ("no trusted encrypted connection", False),
    "timeout": ("the host fell silent", True),
    "deadline": ("the whole fetch, redirects and retries included, took too long", True),
    "too_slow": ("the bytes came below the least speed", True),
    "incomplete": ("fewer bytes came than the host had announced", True),
    "bad_response": ("what came is not HTTP", True),
    "host_down": ("the host failed so often in a row that it is left alone for a while", True),
    "http_NNN": ("the host answered with this status; 408, 425, 429 and 5xx may pass", False),
    "redirect_refused": ("too many redirects, or one that leads away from http(s)", False),
    "refused_address": ("the host's address is private, loopback, link-local, or of a cloud's metadata service", False),
    "bad_url": ("the address cannot be asked for", False),
    "opted_out": ("the host reserves the picture: by X-Robots-Tag, TDM-Reservation or its tdmrep.json", False),
    "robots_disallowed": ("the host's robots.txt forbids the address", False),
    "robots_unavailable": ("the host's robots.txt answers with a server error, which counts as forbidden", True),
    "license": ("the licence is not among `licenses`", False),
    "too_large": ("more bytes than `max_bytes`", False),
    "bad_encoding": ("a transfer or content encoding that cannot be undone", False),
    "empty": ("no bytes", False),
    "not_an_image": ("a page, text or other thing that no picture format owns", False),
    "svg": ("a drawing, not a raster picture", False),
    "truncated": ("the picture ends before its last row", False),
    "undecodable": ("the picture's format is known but its content is broken", False),
    "out_of_memory": ("there was no memory to decode the picture, twice", True),
    "too_many_pixels": ("more pixels than `max_pixels`", False),
    "sha256_mismatch": ("other bytes than the source's SHA-256 names", False),
    "taken_down": ("a picture with this SHA-256 was taken down before", False),
    "missing_file": ("a local picture is not there", True),
    "unreadable_file": ("a local picture may not be read", True),
    "bad_reference": ("a local picture's place makes no sense", False),
}


def is_retryable(reason: str) -> bool:
    """Whether a later run may get the picture. Never for what the host or its owner decided."""
    if reason.startswith("http_") and reason[5:].isdigit():
        code = int(reason[5:])
        return code in (408, 425, 429) or code >= 500
    return REASONS.get(reason, ("", False))[1]


class FetchError(Exception):
    """No picture for this one row."""

    def __init__(self, reason: str, detail: str = "", wait: float | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
        self.wait = wait
        """Seconds that the host asked to wait (Retry-After)."""


class NetworkDown(RuntimeError):
    """This machine cannot reach anything, and that for long: no picture is to blame, the run stops."""
