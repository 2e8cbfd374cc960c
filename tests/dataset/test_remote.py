"""URLs and data URIs: where a connection goes, and when it ends. A TLS server on this machine plays the internet."""

from __future__ import annotations

import base64
import gc
import io
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dataset_forge import png, zip_of
from ideogram4_lora_trainer.trainer_core.dataset import Network, fetch_dataset, open_url
from ideogram4_lora_trainer.trainer_core.errors import DatasetUnreadable, NoImagesFound
from ideogram4_lora_trainer.trainer_core.remote.addresses import is_public
from internet import PUBLIC, Internet, ok, redirect, running_internet

ZIP = zip_of({"a.png": png(), "a.txt": "a caption"})


@pytest.fixture
def internet(tmp_path: Path) -> Iterator[Internet]:
    with running_internet(tmp_path) as internet:
        internet.answers["/set.zip"] = ok(ZIP)
        yield internet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "downloads").mkdir()
    return tmp_path / "downloads"


@pytest.fixture
def fetch(internet: Internet, folder: Path) -> Callable[..., bytes | Path]:
    return lambda url, **options: fetch_dataset(url, folder=folder, network=internet.network, **options)


def refused(fetch: Callable[..., Any], url: str, words: str, **options: Any) -> str:
    with pytest.raises(DatasetUnreadable, match=words) as error:
        fetch(url, **options)
    return str(error.value)


# ---- what works ----------------------------------------------------------------------------------------------


def test_a_zip_is_downloaded_to_a_new_file(fetch, folder: Path, internet: Internet) -> None:
    seen: list[int] = []
    path = fetch("https://dataset.test/set.zip", progress=seen.append)
    assert path.parent == folder and path.read_bytes() == ZIP
    assert seen[-1] == len(ZIP) and seen == sorted(seen)
    assert fetch("https://dataset.test/set.zip") != path
    assert internet.connected == [(PUBLIC, 443)] * 2
    assert "Host: dataset.test\r\n" in internet.requests[0]


@pytest.mark.parametrize(
    ("url", "target", "host"),
    [
        ("https://dataset.test/a%20b/s.zip?x=1&y=%2F#part", "/a%20b/s.zip?x=1&y=%2F", "dataset.test"),
        ("HTTPS://Dataset.TEST:8443/\u00fc.zip", "/%C3%BC.zip", "dataset.test:8443"),
        ("https://dataset.test?token=a/b", "/?token=a/b", "dataset.test"),
    ],
)
def test_urls_as_people_write_them(fetch, internet: Internet, url: str, target: str, host: str) -> None:
    internet.answers[target] = ok(ZIP)
    assert fetch(url).read_bytes() == ZIP
    assert f"Host: {host}\r\n" in internet.requests[0]


def test_bodies_in_chunks_and_bodies_that_end_with_the_connection(fetch, internet: Internet) -> None:
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (ZIP[:100], ZIP[100:])) + b"0\r\n\r\n"
    internet.answers["/chunked"] = ok(chunked, "Transfer-Encoding: chunked")
    internet.answers["/open"] = ok(ZIP, "Content-Type: application/zip")
    assert fetch("https://dataset.test/chunked").read_bytes() == ZIP
    assert fetch("https://dataset.test/open").read_bytes() == ZIP


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(fetch, internet: Internet, status: int) -> None:
    internet.addresses["other.test"] = ["203.0.114.1"]
    internet.answers["/moved"] = redirect("https://other.test/relative/", status)
    internet.answers["/relative/"] = redirect("../set.zip?signed", status)
    internet.answers["/set.zip?signed"] = ok(ZIP)
    assert fetch("https://dataset.test/moved").read_bytes() == ZIP
    assert [address for address, _ in internet.connected] == [PUBLIC, "203.0.114.1", "203.0.114.1"]


def test_a_dataset_from_a_url_and_its_file(internet: Internet, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ideogram4_lora_trainer.trainer_core.dataset import opening

    real = fetch_dataset
    monkeypatch.setattr(opening, "fetch_dataset", lambda url, **o: real(url, network=internet.network, **o))
    dataset = open_url("https://dataset.test/set.zip", folder=folder)
    assert dataset.items[0].caption == "a caption" and dataset.read(dataset.items[0]) == png()
    assert len(list(folder.iterdir())) == 1
    del dataset
    gc.collect()
    assert list(folder.iterdir()) == []
    internet.answers["/empty.zip"] = ok(zip_of({"readme.md": "x"}))
    with pytest.raises(NoImagesFound, match="downloaded zip"):
        open_url("https://dataset.test/empty.zip", folder=folder)
    assert list(folder.iterdir()) == []


# ---- data URIs -----------------------------------------------------------------------------------------------


def data_uri(data: bytes, kind: str = "application/zip") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize("kind", ["application/zip", "application/octet-stream", ""])
def test_a_data_uri_is_decoded_in_memory(kind: str) -> None:
    assert fetch_dataset(data_uri(ZIP, kind)) == ZIP
    assert open_url(data_uri(ZIP, kind).replace("data:", "DATA:")).items[0].caption == "a caption"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("data:application/zip,PK", "base64"),
        ("data:application/zip;base64", "base64"),
        ("data:application/zip;base64,P*K=", "not valid base64"),
        ("data:application/zip;base64,UEs", "not valid base64"),
        ("data:application/zip;base64,\u00fc", "not valid base64"),
    ],
)
def test_broken_data_uris_are_refused_without_repeating_them(uri: str, words: str) -> None:
    with pytest.raises(DatasetUnreadable, match=words):
        fetch_dataset(uri)


def test_data_uris_are_limited_from_both_sides() -> None:
    for size in range(300, 306):
        assert fetch_dataset(data_uri(bytes(size)), max_bytes=size) == bytes(size)
        with pytest.raises(DatasetUnreadable, match="larger than"):
            fetch_dataset(data_uri(bytes(size)), max_bytes=size - 1)


# ---- refused before a connection is made ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://dataset.test/set.zip", "not an https URL"),
        ("ftp://dataset.test/set.zip", "not an https URL"),
        ("file:///etc/passwd", "not an https URL"),
        ("//dataset.test/set.zip", "not an https URL"),
        ("set.zip", "not an https URL"),
        ("", "not an https URL"),
        ("https:///set.zip", "names no server"),
        ("https://user:secret@dataset.test/set.zip", "user name or password"),
        ("https://user@dataset.test/set.zip", "user name or password"),
        ("https://@dataset.test/set.zip", "user name or password"),
        ("https://dataset.test:0/set.zip", "names no server"),
        ("https://dataset.test:99999/set.zip", "not a valid URL"),
        ("https://dataset.test:x/set.zip", "not a valid URL"),
        ("https://[dataset.test/set.zip", "not a valid URL"),
        ("https://dataset.test/a b.zip", "control characters"),
        ("https://dataset.test/\r\nX: y", "control characters"),
        ("https://dataset.test/\x7f", "control characters"),
        ("https://dataset.test/" + "a" * 8192, "longer than"),
        ("https://nowhere.test/set.zip", "cannot be found"),
        ("https://" + "a" * 70 + ".test/", "no valid server|cannot be found"),
        ("https://dataset..test/", "no valid server|cannot be found"),
    ],
)
def test_urls_that_are_refused_without_a_connection(fetch, internet: Internet, url: str, words: str) -> None:
    message = refused(fetch, url, words)
    assert internet.connected == [] and "secret" not in message


NOT_PUBLIC = """
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.8.9.10 169.254.169.254
    172.16.0.1 172.31.255.255 192.0.0.8 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.19.255.255 198.51.100.7
    203.0.113.9 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 64:ff9b::a00:1
    64:ff9b:1::7f00:1 100::1 2001::1 2001:db8::1 2001:10::1 2002:7f00:1:: 3fff::1 fc00::1 fd12::1 fe80::1
    fe80::1%eth0 fec0::1 ff02::1 ff0e::1 5f00::1 4000::1 2606:4700::1%1
    dataset.test 127.1 0x7f.1 2130706433 1.2.3.4.5
"""
JUST_PUBLIC = """
    1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.255.255
    172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255
    2606:4700::1111 2a00:1450::1 ::ffff:1.1.1.1 64:ff9b::101:101 3ffe::1
"""


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_addresses_that_are_not_public_are_never_connected_to(fetch, internet: Internet, address: str) -> None:
    assert not is_public(address)
    for answer in ([address], [PUBLIC, address], [address, PUBLIC]):
        internet.addresses["dataset.test"] = answer
        refused(fetch, "https://dataset.test/set.zip", "private or reserved")
    assert internet.connected == []


@pytest.mark.parametrize("address", JUST_PUBLIC.split())
def test_addresses_that_are_public(fetch, internet: Internet, address: str) -> None:
    assert is_public(address)
    internet.addresses["dataset.test"] = [address]
    fetch("https://dataset.test/set.zip")
    assert internet.connected == [(address, 443)]


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "169.254.169.254", "2130706433", "0x7f.1", "localhost"])
def test_private_hosts_in_the_url_itself(host: str, folder: Path) -> None:
    """With the system's own resolver, which reads numbers in all these spellings."""

    def connect(*_: object, **__: object) -> socket.socket:
        raise AssertionError("a connection was made")

    with pytest.raises(DatasetUnreadable, match=r"private or reserved|cannot be found"):
        fetch_dataset(f"https://{host}/", folder=folder, network=Network(connect=connect))


def test_a_second_answer_of_the_resolver_changes_nothing(fetch, internet: Internet) -> None:
    """DNS rebinding: public when judged, private a moment later."""
    lookups = []

    def resolve(host: str, port: int, **options: Any) -> list[Any]:
        lookups.append(host)
        answer = [PUBLIC] if len(lookups) == 1 else ["127.0.0.1"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answer]

    internet.resolve = resolve
    assert fetch("https://dataset.test/set.zip").read_bytes() == ZIP
    assert lookups == ["dataset.test"] and internet.connected == [(PUBLIC, 443)]


def test_the_next_address_is_tried_when_one_does_not_answer(fetch, internet: Internet) -> None:
    internet.addresses["dataset.test"] = ["1.1.1.1", PUBLIC]
    real = internet.connect

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        connection = real(address, timeout)
        if address[0] == "1.1.1.1":
            connection.close()
            raise ConnectionRefusedError(111, "Connection refused")
        return connection

    internet.connect = connect
    assert fetch("https://dataset.test/set.zip").read_bytes() == ZIP
    internet.addresses["dataset.test"] = ["1.1.1.1"]
    refused(fetch, "https://dataset.test/set.zip", "Connection refused")


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("http://dataset.test/set.zip", "not an https URL"),
        ("https://inside.test/set.zip", "private or reserved"),
        ("https://127.0.0.1/set.zip", "private or reserved|cannot be found"),
        ("https://user:secret@dataset.test/set.zip", "user name or password"),
        ("file:///etc/passwd", "not an https URL"),
        ("data:application/zip;base64,UEs=", "not an https URL"),
        ("https://dataset.test/loop", "redirects more than 5 times"),
    ],
)
def test_every_redirect_is_judged_again(fetch, internet: Internet, location: str, words: str) -> None:
    internet.addresses |= {"inside.test": ["10.0.0.1"], "127.0.0.1": ["127.0.0.1"]}
    internet.answers["/loop"] = redirect(location)
    message = refused(fetch, "https://dataset.test/loop", words)
    assert {address for address, _ in internet.connected} == {PUBLIC}
    assert len(internet.connected) <= 6 and "secret" not in message


def test_proxies_of_the_environment_are_ignored(fetch, internet: Internet, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetch("https://dataset.test/set.zip").read_bytes() == ZIP


# ---- refused while it goes on --------------------------------------------------------------------------------


def test_certificates_are_verified(fetch, internet: Internet) -> None:
    internet.addresses["wrong.test"] = [PUBLIC]
    refused(fetch, "https://wrong.test/set.zip", "no valid certificate: Hostname mismatch")
    internet.context = ssl.create_default_context
    refused(fetch, "https://dataset.test/set.zip", "no valid certificate")
    assert internet.requests == []


def test_bytes_are_limited_from_both_sides_whatever_is_declared(fetch, internet: Internet, folder: Path) -> None:
    internet.answers["/undeclared"] = ok(ZIP, "Content-Type: application/zip")
    for target in ("set.zip", "undeclared"):
        assert fetch(f"https://dataset.test/{target}", max_bytes=len(ZIP)).read_bytes() == ZIP
        refused(fetch, f"https://dataset.test/{target}", "larger than", max_bytes=len(ZIP) - 1)
    assert len(list(folder.iterdir())) == 2


def test_a_body_without_end_is_cut_off(fetch, internet: Internet, folder: Path) -> None:
    def pour(client: ssl.SSLSocket, request: str) -> None:
        client.sendall(ok(b"", "Content-Type: application/zip"))
        for _ in range(1000):
            client.sendall(bytes(65536))

    internet.answers["/endless"] = pour
    seen: list[int] = []
    refused(fetch, "https://dataset.test/endless", "larger than", max_bytes=10**6, progress=seen.append)
    assert max(seen) <= 10**6 and list(folder.iterdir()) == []


@pytest.mark.parametrize("stage", ["headers", "body", "chunks", "silence"])
def test_time_is_limited_however_slowly_the_bytes_drip(fetch, internet: Internet, folder: Path, stage: str) -> None:
    def drip(client: ssl.SSLSocket, request: str) -> None:
        start = {"headers": b"HTTP/1.1 200 OK\r\n", "body": ok(b"", "A: b"), "silence": b""}
        client.sendall(start.get(stage, ok(b"ffffff\r\n", "Transfer-Encoding: chunked")))
        if stage == "silence":
            client.recv(1)  # until the other side gives up
            return
        for _ in range(200):
            time.sleep(0.05)
            client.sendall(b"x")

    internet.answers["/slow"] = drip
    started = time.monotonic()
    refused(fetch, "https://dataset.test/slow", "too long", timeout_s=0.5)
    assert time.monotonic() - started < 5
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "answered with 404"),
        (b"HTTP/1.1 500 Oh\x1b[2J\r\n\r\n", r"500 'Oh\\x1b"),
        (b"HTTP/1.1 206 Part\r\nContent-Length: 1\r\n\r\nx", "answered with 206"),
        (b"SSH-2.0-OpenSSH_9\r\n", "cannot be downloaded: BadStatusLine"),
        (b"", "cannot be downloaded: RemoteDisconnected"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500 + b"\r\n", "cannot be downloaded"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000, "cannot be downloaded"),
        (ok(ZIP, "Content-Encoding: gzip"), "sent compressed"),
        (ok(ZIP, "Content-Length: 999999"), "broke off"),
        (ok(b"fffff\r\nabc", "Transfer-Encoding: chunked"), "cannot be downloaded: IncompleteRead"),
        (ok(b"zz\r\nabc", "Transfer-Encoding: chunked"), "cannot be downloaded"),
        (redirect(""), "redirects more than"),
    ],
)
def test_answers_that_are_no_zip(fetch, internet: Internet, folder: Path, answer: bytes, words: str) -> None:
    internet.answers["/odd"] = answer
    message = refused(fetch, "https://dataset.test/odd", words)
    assert message.startswith("The URL https://dataset.test/odd ") and "\x1b" not in message
    assert list(folder.iterdir()) == []


def test_messages_do_not_repeat_what_a_query_may_hold(fetch, internet: Internet) -> None:
    message = refused(fetch, "https://dataset.test/gone.zip?signature=secret#secret", "404")
    assert "gone.zip" in message and "secret" not in message


def test_whatever_progress_raises_ends_the_download(fetch, folder: Path) -> None:
    class Cancelled(BaseException):
        pass

    def cancel(received: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        fetch("https://dataset.test/set.zip", progress=cancel)
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_told(fetch, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    def fdopen(handle: int, mode: str) -> io.BytesIO:
        os.close(handle)
        return FullDisk()

    monkeypatch.setattr(os, "fdopen", fdopen)
    refused(fetch, "https://dataset.test/set.zip", "No space left on device")
    assert list(folder.iterdir()) == []
