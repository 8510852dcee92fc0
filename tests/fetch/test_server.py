"""Downloads from a real server on loopback, which only a test may reach."""

from __future__ import annotations

import http.server
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from passreid import fetch
from passreid.errors import ImageError
from tests.fetch.network import get, names


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(40 if self.path == "/drip" else 1):
                self.wfile.write(b"picture")
                self.wfile.flush()
                time.sleep(0.05 if self.path == "/drip" else 0)
        except OSError:
            pass  # the client has hung up, as it should

    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve(tls: ssl.SSLContext | None = None) -> Iterator[int]:
    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a refused certificate is the client's to report

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def port() -> Iterator[int]:
    yield from serve()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh certificate and key for pictures.example that nobody has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path)
    subject = ("-subj", "/CN=test", "-addext", "subjectAltName=DNS:pictures.example")
    command = ("openssl", "req", "-x509", *key, "-out", f"{path}.crt", *subject)
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


@pytest.fixture
def tls_port(certificate: Path) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    yield from serve(context)


def get_here(url: str, **options: Any) -> bytes:
    """Download from this machine, as the real check would never let it."""
    return get(None, lambda *_: ["127.0.0.1"], url, is_allowed=lambda _: True, **options)


@pytest.mark.loopback
@pytest.mark.enable_socket
def test_a_real_server_is_refused_and_reached_where_a_test_allows_it(port: int) -> None:
    url = f"http://pictures.example:{port}/"
    with pytest.raises(ImageError, match="not a public address"):
        get(None, names(pictures="127.0.0.1"), url, allow_http=True)
    assert get_here(url, allow_http=True) == b"picture"


@pytest.mark.loopback
@pytest.mark.enable_socket
def test_a_body_that_drips_ends_by_the_deadline(port: int) -> None:
    start = time.monotonic()
    with pytest.raises(ImageError, match=r"did not arrive within 0\.3 s"):
        url = f"http://pictures.example:{port}/drip"
        get_here(url, allow_http=True, timeout_s=0.3)
    assert time.monotonic() - start < 1.5


@pytest.mark.loopback
@pytest.mark.enable_socket
def test_a_closed_port_is_named_as_such(port: int) -> None:
    with pytest.raises(ImageError, match="cannot be downloaded"):
        get_here("http://pictures.example:1/", allow_http=True)


@pytest.mark.loopback
@pytest.mark.enable_socket
def test_certificates_are_checked_against_the_host_name(
    tls_port: int, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"https://pictures.example:{tls_port}/"
    with pytest.raises(ImageError, match="certificate verify failed"):
        get_here(url)
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(fetch, "_tls", lambda: trusting)
    assert get_here(url) == b"picture"
    with pytest.raises(ImageError, match=r"other\.example"):
        get_here(url.replace("pictures", "other"))


@pytest.mark.enable_socket
def test_numeric_names_resolve_without_a_question_to_anybody() -> None:
    assert fetch.resolve("127.0.0.1", 443) == ["127.0.0.1"]
