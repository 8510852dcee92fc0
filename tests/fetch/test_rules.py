"""Downloads reach public addresses alone, within limits, and say what went wrong."""

from __future__ import annotations

import threading
import time

import pytest

from passreid.errors import ImageError
from passreid.fetch import describe_url, is_public
from tests.fetch.network import PUBLIC, URL, Recorder, answer, get, names, redirect


def test_connects_to_the_checked_address_and_verifies_the_name() -> None:
    recorder = Recorder(answer(b"picture"))
    assert get(recorder, names(pictures=PUBLIC), URL + "?size=2") == b"picture"
    assert recorder.connected == [(PUBLIC, 443)]
    assert recorder.verified == ["pictures.example"]
    assert recorder.sent.startswith(b"GET /a.jpg?size=2 HTTP/1.1\r\nHost: pictures.example\r\n")


def test_a_name_is_resolved_once_so_that_rebinding_cannot_win() -> None:
    answers = iter([[PUBLIC], ["127.0.0.1"]])
    recorder = Recorder(answer(b"x"))
    assert get(recorder, lambda host, port: next(answers)) == b"x"
    assert recorder.connected == [(PUBLIC, 443)]


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("0.0.0.0", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
        *(
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "::7f00:1",
            "fe80::1",
            "fe80::1%eth0",
        ),
        *("fc00::1", "fec0::1", "ff0e::1", "2001:db8::1", "100::1"),
        *("2002:a00:1::", "64:ff9b::a9fe:a9fe", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
        *("", "pictures.example", "1.2.3"),
    ],
)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert not is_public(address)
    recorder = Recorder()
    for found in ([address], [PUBLIC, address]):
        with pytest.raises(ImageError, match=r"pictures\.example is not a public address"):
            get(recorder, names(pictures=found))
    assert recorder.connected == []


@pytest.mark.parametrize(
    "address",
    [
        PUBLIC,
        "8.8.8.8",
        "2001:4860:4860::8888",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:1::",
    ],
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:169.254.169.254]", "10.0.0.1"])
def test_a_private_address_written_in_the_url_is_refused(host: str) -> None:
    with pytest.raises(ImageError, match="not a public address"):
        get(Recorder(), lambda name, port: [name], f"https://{host}/")


def test_redirects_are_followed_each_to_its_own_checked_address() -> None:
    recorder = Recorder(redirect("/b.jpg"), redirect("https://other.example:8443/c"), answer(b"c"))
    assert get(recorder, names(pictures=PUBLIC, other="8.8.8.8")) == b"c"
    assert recorder.connected == [(PUBLIC, 443), (PUBLIC, 443), ("8.8.8.8", 8443)]
    assert b"GET /b.jpg " in recorder.sent and b"Host: other.example:8443\r\n" in recorder.sent


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("https://inside.example/", r"inside\.example is not a public address"),
        ("https://169.254.169.254/latest/meta-data", "not a public address"),
        ("//inside.example/", r"inside\.example is not a public address"),
        ("http://pictures.example/", "plain http is refused"),
        ("file:///etc/passwd", "leads to file://"),
        ("https://user:word@pictures.example/", "user name or password"),
        ("https://pictures.example:99999/", "not a valid URL"),
        ("https://[::1/", "not a valid URL"),
    ],
)
def test_redirects_that_lead_astray_are_refused(location: str, message: str) -> None:
    hosts = {"pictures": PUBLIC, "inside": "10.0.0.1", "169.254.169.254": "169.254.169.254"}
    recorder = Recorder(redirect(location))
    with pytest.raises(ImageError, match=message) as caught:
        get(recorder, names(**hosts))
    assert caught.value.source == URL
    assert len(recorder.connected) == 1


def test_redirects_are_counted_and_one_without_a_target_ends() -> None:
    recorder = Recorder(*[redirect(URL)] * 3)
    with pytest.raises(ImageError, match="redirects more than 2 times"):
        get(recorder, names(pictures=PUBLIC), max_redirects=2)
    assert len(recorder.connected) == 3
    recorder = Recorder(*[b"HTTP/1.1 302 Found\r\n\r\n"] * 2)
    with pytest.raises(ImageError, match="redirects more than 1 times"):
        get(recorder, names(pictures=PUBLIC), max_redirects=1)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "http://pictures.example/",
            "plain http is refused.*https, or ImageLimits.allow_http=True",
        ),
        ("ftp://pictures.example/", "leads to ftp://, but only https"),
        ("https:///a.jpg", "not a valid URL"),
        ("https://pictures.example:0/", "not a valid URL"),
        ("https://[zz]/", "not a valid URL"),
        ("https://me:word@pictures.example/", "user name or password"),
    ],
)
def test_urls_that_are_refused_before_any_look_up(url: str, message: str) -> None:
    def resolve(host: str, port: int) -> list[str]:
        raise AssertionError("looked up")

    with pytest.raises(ImageError, match=message):
        get(Recorder(), resolve, url)


def test_plain_http_where_it_is_allowed() -> None:
    recorder = Recorder(answer(b"x"))
    assert get(recorder, names(pictures=PUBLIC), "http://pictures.example", allow_http=True) == b"x"
    assert recorder.connected == [(PUBLIC, 80)] and recorder.verified == []


@pytest.mark.parametrize("claims", [1001, 2000])
def test_bodies_over_the_cap_are_refused_whatever_they_claim(claims: int) -> None:
    script = answer(b"x" * 1001, claims=claims)
    with pytest.raises(ImageError, match="larger than the 1,000 bytes"):
        get(Recorder(script), names(pictures=PUBLIC))
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001
    with pytest.raises(ImageError, match="larger than the 1,000 bytes"):
        get(Recorder(chunked), names(pictures=PUBLIC))
    assert len(get(Recorder(answer(b"x" * 1000)), names(pictures=PUBLIC))) == 1000


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "status 404"),
        (b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1\r\n\r\nx", "status 206"),
        (answer(b"half", claims=8), "cannot be downloaded"),
        (b"SSH-2.0-OpenSSH_9\r\n", "cannot be downloaded"),
        (b"", "cannot be downloaded"),
    ],
)
def test_answers_that_are_no_picture(script: bytes, message: str) -> None:
    recorder = Recorder(script)
    with pytest.raises(ImageError, match=message):
        get(recorder, names(pictures=PUBLIC))
    assert len(recorder.connected) == 1  # no retry


def test_addresses_of_one_name_are_tried_in_order_once_each() -> None:
    recorder = Recorder(answer(b"x"), refuses=["8.8.4.4"])
    assert get(recorder, names(pictures=["8.8.4.4", PUBLIC, "8.8.8.8"])) == b"x"
    assert [host for host, _ in recorder.connected] == ["8.8.4.4", PUBLIC]
    recorder = Recorder(refuses=["8.8.4.4", PUBLIC])
    with pytest.raises(ImageError, match="refuses"):
        get(recorder, names(pictures=["8.8.4.4", PUBLIC]))
    assert len(recorder.connected) == 2


def test_names_that_do_not_resolve() -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise OSError("Name or service not known")

    with pytest.raises(ImageError, match=r"pictures\.example cannot be resolved"):
        get(Recorder(), unknown)
    with pytest.raises(ImageError, match=r"pictures\.example has no address"):
        get(Recorder(), names(pictures=[]))


def test_a_hanging_resolver_is_left_behind() -> None:
    release = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        release.wait(10)
        return [PUBLIC]

    start = time.monotonic()
    with pytest.raises(ImageError, match=r"did not arrive within 0\.2 s"):
        get(Recorder(), hang, timeout_s=0.2)
    assert time.monotonic() - start < 2
    release.set()


def test_environment_proxies_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    recorder = Recorder(answer(b"x"))
    assert get(recorder, names(pictures=PUBLIC)) == b"x"
    assert recorder.connected == [(PUBLIC, 443)]


def test_descriptions_keep_secrets_out() -> None:
    url = "https://me:word@pictures.example:8443/a/b.jpg?signature=abc#part"
    assert describe_url(url) == "https://pictures.example:8443/a/b.jpg?…"
    assert describe_url(URL) == URL
    assert describe_url("https://me:word@[zz/a.jpg") == "<malformed URL>"
