"""What the service allows, and what it costs at most."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from passreid.errors import UsageError
from passreid.images import ImageLimits

SHORTEST_TOKEN = 16
UPLOADS = ImageLimits(max_bytes=16 * 2**20, max_pixels=50_000_000)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything about a running service that is not its model or its gallery.

    Attributes:
        host: Address it listens on. Anything but loopback needs a token.
        token: What clients send as `Authorization: Bearer …`; None asks for nothing.
        allowed_hosts: Host names it answers to besides its own address and localhost.
        limits: Bounds on one uploaded picture.
        max_request_bytes: Bound on a whole request body with pictures.
        max_json_bytes: Bound on any other body, which is parsed while other requests wait.
        max_files: Pictures in one request.
        max_connections: Open connections; lowered where the system allows fewer open files.
        max_waiting: Requests with a body that are under way at once; more are told to come back.
        max_pending: Crops that wait for the network.
        headers_timeout_s: Seconds in which a connection's next request must begin and its headers
            arrive, and after which a client that reads nothing of an answer is cut off.
        decode_timeout_s, upload_timeout_s: Seconds to decode one picture, to send one body.
        retention_days: Entries older than this are forgotten; None keeps them.
        audit: File that lists who enrolled, searched, changed and forgot, without pictures.
    """

    host: str = "127.0.0.1"
    token: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    limits: ImageLimits = UPLOADS
    max_request_bytes: int = 64 * 2**20
    max_json_bytes: int = 2**20
    max_files: int = 64
    max_connections: int = 1000
    max_waiting: int = 64
    max_pending: int = 256
    headers_timeout_s: float = 30.0
    decode_timeout_s: float = 10.0
    upload_timeout_s: float = 60.0
    retention_days: float | None = None
    audit: Path | None = None

    def __post_init__(self) -> None:
        """Refuse settings that anybody could use, or under which nothing could be answered."""
        if not self.local and not self.token:
            raise UsageError(
                f"Listening on {self.host} needs a token, or anybody who reaches it could "
                "search for people: set --token or PASSREID_TOKEN, or listen on 127.0.0.1."
            )
        if self.token is not None and (
            len(self.token) < SHORTEST_TOKEN or not self.token.isascii() or " " in self.token
        ):
            raise UsageError(
                f"The token must be at least {SHORTEST_TOKEN} ASCII characters without spaces; "
                'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        if self.retention_days is not None and not 0 < self.retention_days <= 1e6:
            raise UsageError("The retention must be more than 0 days, and a million at most.")
        counts = (self.max_request_bytes, self.max_json_bytes, self.max_files, self.max_waiting)
        if min(*counts, self.max_connections) < 1 or self.max_pending < self.max_files:
            raise UsageError("Limits must be positive, and max_pending at least max_files.")

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the service."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Say whether `host` is an address that never leaves this machine."""
    if host == "localhost":
        return True
    address = parse_address(host)
    return address is not None and address.is_loopback


def parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an IP address, with or without brackets; None for a name."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
