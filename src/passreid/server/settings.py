"""Settings of a running service."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from passreid.errors import UsageError
from passreid.images import ImageLimits

MIN_TOKEN = 16
UPLOADS = ImageLimits(max_bytes=16 * 2**20, max_pixels=50_000_000)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything about a running service besides its model and gallery.

    Attributes:
        host: Address it listens on. Anything but loopback needs a token.
        token: Clients send it as `Authorization: Bearer …`; None requires none.
        allowed_hosts: Host names it answers to besides its own address and localhost.
        limits: Bounds on one image.
        max_request_bytes, max_json_bytes: Bounds on a body with images, and on any other body.
        max_files: Images per request.
        max_connections: Open connections; lowered where the system allows fewer open files.
        max_waiting: Requests with a body in progress at once; further ones get 429.
        max_pending: Crops that wait for the network.
        headers_timeout_s: Seconds for a connection's next request to arrive with its headers, and
            for a client that stopped reading to resume.
        decode_timeout_s, upload_timeout_s: Seconds to decode one image, to receive one body.
        retention_days: Older entries are deleted; None keeps them.
        audit: File of the audit log.
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
        if not self.local and not self.token:
            raise UsageError(
                f"Listening on {self.host} needs a token, or anyone who reaches it could search "
                "for people: set --token or PASSREID_TOKEN, or listen on 127.0.0.1."
            )
        token = self.token
        if token is not None and (len(token) < MIN_TOKEN or not token.isascii() or " " in token):
            raise UsageError(
                f"The token must be at least {MIN_TOKEN} ASCII characters without spaces; "
                'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        if self.retention_days is not None and not 0 < self.retention_days <= 1e6:
            raise UsageError("The retention must be more than 0 and at most 1,000,000 days.")
        counts = (self.max_request_bytes, self.max_json_bytes, self.max_files, self.max_waiting)
        if min(*counts, self.max_connections) < 1 or self.max_pending < self.max_files:
            raise UsageError("Limits must be positive, and max_pending at least max_files.")

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the service."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether `host` is an address that never leaves this machine."""
    address = parse_address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an IP address, with or without brackets; None for a name."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
