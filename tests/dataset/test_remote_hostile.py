"""URLs that want to lead into the user's own network, and every connection counted where it is made: at the socket."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dataset_forge import png, zip_of
from ideogram4_lora_trainer.trainer_core.dataset import Network, fetch_dataset
from ideogram4_lora_trainer.trainer_core.errors import DatasetUnreadable

PUBLIC = "93.184.216.34"
ZIP = zip_of({"a.png": png(), "a.txt": "a caption"})
MAX_SECONDS = 5.0

# ---- a world in which only PUBLIC is public ------------------------------------------------------------------


class PlainContext:
    """No TLS, so that the test's server needs no certificate; `test_remote.py` has the tests with TLS."""

    def wrap_socket(self, raw: socket.socket, server_hostname: str) -> socket.socket:
        return raw


@dataclasses.dataclass
class Wire:
    """Counts what sockets connect to, whoever made them; PUBLIC leads to a server that always answers the same."""

    answer: bytes = b""
    names: dict[str, list[list[str]]] = dataclasses.field(default_factory=dict)
    """What a name resolves to: the answers to the first, second, ... question; the last is given again and again."""
    connected: list[str] = dataclasses.field(default_factory=list)

    def resolve(self, host: str, port: int, **_: Any) -> list[Any]:
        """Names from the table; what the system takes for a number, in any spelling, it reads itself."""
        if host not in self.names:
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        answers = self.names[host]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    @property
    def network(self) -> Network:
        """With the real `connect`: the sockets are those that a user's machine would make."""
        return Network(resolve=self.resolve, tls_context=PlainContext)

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # the test is over
            with contextlib.suppress(OSError), client:
                while b"\r\n\r\n" not in client.recv(65536):
                    pass
                client.sendall(self.answer)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    wire = Wire(names={"dataset.test": [[PUBLIC]]})
    real_connect = socket.socket.connect

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def connect(self: socket.socket, address: Any) -> None:
            wire.connected.append(address[0])
            if address[0] != PUBLIC:
                raise ConnectionRefusedError(111, "Connection refused")
            real_connect(self, listener.getsockname())

        for method in ("connect", "connect_ex", "sendto"):
            monkeypatch.setattr(socket.socket, method, connect, raising=False)
        thread = threading.Thread(target=wire.serve, args=(listener,), daemon=True)
        thread.start()
        yield wire
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def redirect(location: str) -> bytes:
    return f"HTTP/1.1 302 Go\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")


# ---- the URLs ------------------------------------------------------------------------------------------------

INSIDE = """
    127.0.0.1 127.1 127.0.1 2130706433 0x7f000001 0x7f.0.0.1 0177.0.0.1 017700000001 0x7f.1 0 0.0.0.0 127.255.255.254
    10.0.0.1 0xa.0.0.1 012.0.0.1 167772161 172.16.0.1 172.31.255.255 192.168.1.1 0300.0250.1.1 100.64.0.1
    169.254.169.254 2852039166 0xa9fea9fe 0251.0376.0251.0376 224.0.0.1 239.255.255.250 255.255.255.255 198.18.0.1
    [::1] [::] [0:0:0:0:0:0:0:1] [::7f00:1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:10.0.0.1]
    [::ffff:169.254.169.254] [64:ff9b::7f00:1] [64:ff9b::127.0.0.1] [64:ff9b::10.0.0.1] [64:ff9b:1::7f00:1]
    [2002:7f00:1::] [2002:a00:1::1] [2001:0:4136:e378:8000:63bf:80ff:fffe] [2001::1] [fc00::1] [fd00:ec2::254]
    [fe80::1] [fec0::1] [ff02::1] [ff0e::1] [2001:db8::1] [5f00::1]
    127\u30020\u30020\u30021 127\uff0e0\uff0e0\uff0e1 \uff11\uff12\uff17.0.0.1 ①②⑦.0.0.1 127.0.0.1.
    localhost localhost. ⓛⓞⓒⓐⓛⓗⓞⓢⓣ LOCALHOST
"""
"""Hosts on the user's side of the router, in the spellings that some program or other reads."""

ODD = (
    "http://127.0.0.1/", "https://user:secret@127.0.0.1/", "https://dataset.test@127.0.0.1/",
    "https://127.0.0.1@dataset.test/", "https://dataset.test\\@127.0.0.1/", "https://127.0.0.1\\@dataset.test/",
    "https://127.0.0.1\\.dataset.test/", "https://127.0.0.1%2f@dataset.test/", "https://%31%32%37.0.0.1/",
    "https://127.0.0.1:22/", "https://[::1]:8188/", "https://dataset.test:0/", "https://dataset.test:99999999/",
    "https://[::1%25lo]/", "https://[fe80::1%25eth0]/", "https://[::1]dataset.test/", "https://[127.0.0.1]/",
    "https:/127.0.0.1/", "https:127.0.0.1", "https:///127.0.0.1/", "https://127.0.0.1\r\nHost: dataset.test/",
    "https://127.0.0.1\t/", " https://127.0.0.1/", "https://127.0.0.1#@dataset.test/", "https://127.0.0.1?@dataset.test",
    "https://dataset.test\u2100.test/", "https://127.0.0.1\u2044@dataset.test/", "file://127.0.0.1/etc/passwd",
    "gopher://127.0.0.1:6379/_", "ftp://127.0.0.1/", "//127.0.0.1/", "unix:///var/run/docker.sock",
    "HTTPS://127.0.0.1/", "https://127.0.0.1", "https://0/", "https://./", "https://../", "https://*/",
)  # fmt: skip

MIXED = {
    "private alone": [["10.0.0.1"]],
    "public, then private": [[PUBLIC, "10.0.0.1"]],
    "private, then public": [["127.0.0.1", PUBLIC]],
    "one of twenty": [[PUBLIC] * 19 + ["::1"]],
    "NAT64 of loopback": [[PUBLIC, "64:ff9b::7f00:1"]],
    "mapped": [["::ffff:192.168.0.1", PUBLIC]],
    "Teredo": [["2001:0:4136:e378::1"]],
    "multicast": [[PUBLIC, "224.0.0.251"]],
    "a scope": [["fe80::1%1"]],
    "no number": [["dataset.test"]],
    "nothing": [[]],
}
"""What the resolver may answer for one name."""


def refused(wire: Wire, folder: Path, url: str) -> None:
    """The URL is refused soon, nothing stays behind, and nothing but PUBLIC was connected to, six times at most."""
    started = time.perf_counter()
    with pytest.raises(DatasetUnreadable) as error:
        fetch_dataset(url, folder=folder, network=wire.network, timeout_s=MAX_SECONDS)
    assert time.perf_counter() - started < MAX_SECONDS
    assert set(wire.connected) <= {PUBLIC} and len(wire.connected) <= 6
    assert list(folder.iterdir()) == [] and "secret" not in str(error.value)


def test_the_counting_counts(wire: Wire, tmp_path: Path) -> None:
    wire.answer = ok(ZIP)
    assert fetch_dataset("https://dataset.test/", folder=tmp_path, network=wire.network).read_bytes() == ZIP
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", 9))
    assert wire.connected == [PUBLIC, "127.0.0.1"]
    assert len({*INSIDE.split(), *ODD, *MIXED}) >= 60


@pytest.mark.parametrize("host", INSIDE.split())
def test_a_host_inside_is_never_connected_to(wire: Wire, tmp_path: Path, host: str) -> None:
    wire.names |= {name: [["127.0.0.1", "::1"]] for name in ("localhost", "localhost.")}
    refused(wire, tmp_path, f"https://{host}/set.zip")
    assert wire.connected == []
    wire.answer = redirect(f"https://{host.encode().decode('latin-1')}/set.zip")
    refused(wire, tmp_path, "https://dataset.test/set.zip")
    assert wire.connected == [PUBLIC]


@pytest.mark.parametrize("url", ODD)
def test_an_odd_url_leads_nowhere_inside(wire: Wire, tmp_path: Path, url: str) -> None:
    refused(wire, tmp_path, url)
    assert wire.connected == []
    wire.answer = redirect(url.replace("\r\n", "\t").encode().decode("latin-1"))
    refused(wire, tmp_path, "https://dataset.test/set.zip")


@pytest.mark.parametrize("case", MIXED)
def test_a_name_with_one_address_inside_is_never_connected_to(wire: Wire, tmp_path: Path, case: str) -> None:
    wire.names["mixed.test"] = MIXED[case]
    refused(wire, tmp_path, "https://mixed.test/set.zip")
    assert wire.connected == []
    wire.answer = redirect("https://mixed.test/")
    refused(wire, tmp_path, "https://dataset.test/set.zip")
    assert wire.connected == [PUBLIC]


def test_a_name_that_changes_its_mind_between_redirects(wire: Wire, tmp_path: Path) -> None:
    """Rebinding: each question is judged, and what was judged is what is connected to."""
    wire.names["rebound.test"] = [[PUBLIC], ["127.0.0.1"]]
    wire.answer = redirect("https://rebound.test/again")
    refused(wire, tmp_path, "https://rebound.test/set.zip")
    assert wire.connected == [PUBLIC]


def test_redirects_without_end(wire: Wire, tmp_path: Path) -> None:
    wire.answer = redirect("https://dataset.test/again")
    refused(wire, tmp_path, "https://dataset.test/set.zip")
    assert wire.connected == [PUBLIC] * 6
