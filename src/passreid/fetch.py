"""Download one picture from a URL that nobody vouches for.

The danger of a URL is where it leads: to a cloud's metadata service, to a router, to this machine.
So the check sits where the connection is made, not where the URL is read: every host name, the
first one and that of each redirect, is resolved once, all its addresses must be public, and the
socket is opened to exactly such an address. TLS still verifies the certificate against the host
name. No environment proxy, no cookie, no password, no retry; bytes, redirects and time are bounded.
"""

from __future__ import annotations

import functools
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx

from passreid.errors import ImageError

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_INSTEAD = "download the picture yourself and pass its path or bytes"


def download(
    url: str,
    name: str,
    *,
    max_bytes: int,
    timeout_s: float,
    max_redirects: int = 3,
    allow_http: bool = False,
    network: Network | None = None,
) -> bytes:
    """Fetch the body of `url` from a public address.

    Args:
        url: An absolute https address (http where `allow_http`), without user name or password.
        name: What messages call it.
        max_bytes: The body is dropped as soon as it is longer, whatever its header claims.
        timeout_s: Seconds for everything together: names, connections, redirects, body.
        max_redirects: Redirects followed; each target passes the same checks.
        allow_http: Whether plain http is accepted as well.
        network: Stands in for the real network in tests.

    Raises:
        ImageError: The URL, an address it leads to, the answer or its size is refused, or the
            network fails.
    """
    guard = _Guard(network or Network(), time.monotonic() + timeout_s)
    try:
        target = httpx.URL(url)
        with httpcore.ConnectionPool(_tls(), network_backend=guard) as pool:
            for _ in range(max_redirects + 1):
                _check_url(target, name, allow_http)
                with pool.stream("GET", _plain(target), headers=_headers(target)) as response:
                    if response.status in _REDIRECTS:
                        target = target.join(_location(response))
                        continue
                    if response.status != 200:
                        raise ImageError(name, f"the server answers with status {response.status}")
                    return _read(response, name, max_bytes)
    except _NotPublicError as error:
        reason = f"{error} is not a public address, so it is not contacted; {_INSTEAD}"
        raise ImageError(name, reason) from None
    except httpcore.TimeoutException:
        reason = f"did not arrive within {timeout_s:g} s; allow more time, or {_INSTEAD}"
        raise ImageError(name, reason) from None
    except httpx.InvalidURL:
        raise ImageError(name, "leads to something that is not a valid URL") from None
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise ImageError(name, f"cannot be downloaded ({error})") from error
    raise ImageError(name, f"redirects more than {max_redirects} times; {_INSTEAD}")


def describe_url(url: str) -> str:
    """`url` as messages show it, without what may be secret: user, password, query, fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "<malformed URL>"
    host = parts.netloc.rpartition("@")[2]
    query = "?…" if parts.query else ""
    return f"{parts.scheme}://{host}{parts.path}{query}"


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public Internet.

    An IPv4 address carried inside an IPv6 one (mapped, 6to4, NAT64) is judged itself: the packet
    may end there. `ipaddress.is_global` alone would let multicast and site-local addresses through.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global and not (ip.is_multicast or ip.is_reserved)
    carried = ip.ipv4_mapped or ip.sixtofour
    if ip in _NAT64:
        carried = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if carried is not None:
        return is_public(str(carried))
    return ip.is_global and ip in _GLOBAL_UNICAST


def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of `host` in the order the system prefers; OSError where it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True)
class Network:
    """What a download touches of the outside world.

    Attributes:
        resolve: Host name and port -> addresses.
        is_allowed: Whether an address may be connected to.
        backend: Opens the sockets; it is only ever given addresses that passed.
    """

    resolve: Callable[[str, int], Sequence[str]] = resolve
    is_allowed: Callable[[str], bool] = is_public
    backend: httpcore.NetworkBackend | None = None


class _NotPublicError(Exception):
    """Names the host that leads to an address which may not be contacted."""


class _Guard(httpcore.NetworkBackend):
    """Resolves once, checks every address, connects to a checked one, and minds the deadline."""

    def __init__(self, network: Network, deadline: float) -> None:
        self._network = network
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of `host` that answers, having checked all of them."""
        backend = self._network.backend or httpcore.SyncBackend()
        addresses = self._resolve(host, port)
        # One private address among public ones is how a rebinding name looks: refuse them all.
        if not all(self._network.is_allowed(address) for address in addresses):
            raise _NotPublicError(host)
        failure = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                stream = backend.connect_tcp(address, port, _left(self._deadline))
            except httpcore.ConnectError as error:
                failure = error
            else:
                return _TimedStream(stream, self._deadline)
        raise failure

    def _resolve(self, host: str, port: int) -> Sequence[str]:
        """Resolve in a thread of its own: the system's resolver takes no time limit."""
        answer: queue.SimpleQueue[Sequence[str] | Exception] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answer.put(self._network.resolve(host, port))
            except (OSError, UnicodeError) as error:
                answer.put(error)

        threading.Thread(target=ask, daemon=True).start()
        try:
            found = answer.get(timeout=_left(self._deadline))
        except queue.Empty:
            raise httpcore.ConnectTimeout from None
        if isinstance(found, Exception):
            raise httpcore.ConnectError(f"the name {host} cannot be resolved") from found
        return found


class _TimedStream(httpcore.NetworkStream):
    """A connection whose reads and writes all end by one deadline, however slowly bytes drip."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(self._deadline)
        return _TimedStream(
            self._stream.start_tls(ssl_context, server_hostname, left), self._deadline
        )

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float) -> float:
    """Seconds until `deadline`, more than zero (a zero would make a socket non-blocking)."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout
    return left


@functools.cache
def _tls() -> ssl.SSLContext:
    """Certificate checks by the bundled authorities; environment variables change nothing."""
    return httpx.create_ssl_context(trust_env=False)


def _check_url(url: httpx.URL, name: str, allow_http: bool) -> None:
    if url.scheme == "http" and not allow_http:
        reason = (
            "plain http is refused, as anybody on the way could swap the picture; "
            "use https, or ImageLimits(allow_http=True)"
        )
        raise ImageError(name, reason)
    if url.scheme not in ("https", "http"):
        raise ImageError(name, f"leads to {url.scheme}://, but only https URLs are read")
    if not url.host or (url.port is not None and not 0 < url.port < 65536):
        raise httpx.InvalidURL("no host, or a port out of range")
    if url.userinfo:
        raise ImageError(name, f"holds a user name or password; {_INSTEAD}")


def _plain(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(
        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
    )


def _headers(url: httpx.URL) -> list[tuple[bytes, bytes]]:
    return [
        (b"Host", url.netloc),
        (b"User-Agent", b"passreid"),
        (b"Accept", b"image/*"),
        (b"Accept-Encoding", b"identity"),  # so that the byte cap counts what is kept
        (b"Connection", b"close"),
    ]


def _location(response: httpcore.Response) -> str:
    """Where a redirect points; empty (the same page again) where it does not say."""
    headers = {key.lower(): value for key, value in response.headers}
    return headers.get(b"location", b"").decode("utf-8", "replace")


def _read(response: httpcore.Response, name: str, max_bytes: int) -> bytes:
    body = bytearray()
    for chunk in response.iter_stream():
        body += chunk
        if len(body) > max_bytes:
            raise ImageError(name, f"is larger than the {max_bytes:,} bytes allowed")
    return bytes(body)
