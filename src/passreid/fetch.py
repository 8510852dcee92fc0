"""Download a picture from an untrusted URL.

The danger of a URL is where it leads: to a cloud's metadata service, a router, or this machine. So
the check is made at the connection, not on the URL: each host name, also those of redirects, is
resolved once, all its addresses must be public, and the socket is opened to one of them. TLS still
verifies the certificate against the host name. No environment proxy, cookie, password or retry;
bytes, redirects and time are bounded.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError  # its own before Python 3.11
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
# Uncompressed, so that the byte limit counts what is kept.
_HEADERS: dict[bytes | str, bytes | str] = {
    "User-Agent": "passreid",
    "Accept": "image/*",
    "Accept-Encoding": "identity",
}


def resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host in the system's order of preference."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: str) -> bool:
    """Return whether an IP address is on the public Internet.

    For an IPv4 address embedded in an IPv6 one (mapped, 6to4, NAT64), the IPv4 address decides:
    the packet may end there. `is_global` alone lets multicast and site-local addresses through.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global and not (ip.is_multicast or ip.is_reserved)
    embedded = ip.ipv4_mapped or ip.sixtofour
    if ip in _NAT64:
        embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return is_public(str(embedded)) if embedded else ip.is_global and ip in _GLOBAL_UNICAST


@dataclass(frozen=True)
class Network:
    """The outside world; tests replace it. `backend` is given checked addresses only."""

    resolve: Callable[[str, int], Sequence[str]] = resolve
    is_allowed: Callable[[str], bool] = is_public
    backend: httpcore.NetworkBackend | None = None


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
    """Download the body of a URL from a public address; `name` identifies it in messages.

    `timeout_s` bounds everything together: names, connections, redirects and body.

    Raises:
        ImageError: The URL, one of its addresses, the response or its size is refused, or the
            network fails.
    """
    guard = _Guard(network or Network(), time.monotonic() + timeout_s)
    try:
        target = httpx.URL(url)
        with httpcore.ConnectionPool(_tls(), network_backend=guard, keepalive_expiry=0) as pool:
            for _ in range(max_redirects + 1):
                _check_url(target, name, allow_http)
                address = httpcore.URL(
                    scheme=target.raw_scheme,
                    host=target.raw_host,
                    port=target.port,
                    target=target.raw_path,
                )
                with pool.stream("GET", address, headers=_HEADERS) as response:
                    if response.status not in _REDIRECTS:
                        return _read(response, name, max_bytes)
                    target = target.join(httpx.Headers(response.headers).get("location", ""))
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


def _read(response: httpcore.Response, name: str, max_bytes: int) -> bytes:
    if response.status != 200:
        raise ImageError(name, f"the server answers with status {response.status}")
    body = bytearray()
    for chunk in response.iter_stream():
        body += chunk
        if len(body) > max_bytes:
            raise ImageError(name, f"is larger than the {max_bytes:,} bytes allowed")
    return bytes(body)


def describe_url(url: str) -> str:
    """Return a URL without what may be secret: user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "<malformed URL>"
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}{'?…' if parts.query else ''}"


def _check_url(url: httpx.URL, name: str, allow_http: bool) -> None:
    if url.scheme == "http" and not allow_http:
        reason = "plain http is refused, as anybody on the way could swap the picture; use https, "
        raise ImageError(name, f"{reason}or ImageLimits(allow_http=True)")
    if url.scheme not in ("https", "http"):
        raise ImageError(name, f"leads to {url.scheme}://, but only https URLs are read")
    if not url.host or (url.port is not None and not 0 < url.port < 65536):
        raise httpx.InvalidURL("no host, or a port out of range")
    if url.userinfo:
        raise ImageError(name, f"holds a user name or password; {_INSTEAD}")


@functools.cache
def _tls() -> ssl.SSLContext:
    """Verify certificates with the bundled authorities; environment variables change nothing."""
    return httpx.create_ssl_context(trust_env=False)


class _NotPublicError(Exception):
    """Names a host that must not be contacted."""


class _Guard(httpcore.NetworkBackend):
    """Resolve a host once, check all its addresses, connect to one of them, keep the deadline."""

    def __init__(self, network: Network, deadline: float) -> None:
        self._network, self._deadline = network, deadline

    def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.NetworkStream:
        addresses = self._resolve(host, port)
        # A private address among public ones is the sign of DNS rebinding: refuse them all.
        if not all(map(self._network.is_allowed, addresses)):
            raise _NotPublicError(host)
        backend = self._network.backend or httpcore.SyncBackend()
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
        """Resolve in a daemon thread: the system's resolver has no timeout."""
        answer: Future[Sequence[str]] = Future()

        def ask() -> None:
            try:
                answer.set_result(self._network.resolve(host, port))
            except Exception as error:  # noqa: BLE001 - raised again by answer.result()
                answer.set_exception(error)

        threading.Thread(target=ask, daemon=True).start()
        try:
            return answer.result(_left(self._deadline))
        except FutureTimeoutError:
            raise httpcore.ConnectTimeout from None
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"the name {host} cannot be resolved") from error


class _TimedStream(httpcore.NetworkStream):
    """A connection whose operations all end by one deadline, even if bytes arrive one by one."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

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
        tls = self._stream.start_tls(ssl_context, server_hostname, left)
        return _TimedStream(tls, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float) -> float:
    """Return the seconds until a deadline; never 0, which would make a socket non-blocking."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout
    return left
