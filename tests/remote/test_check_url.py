"""`check_url` says beforehand what `fetch` and `post_json` would refuse, and hosts that the owner has opened."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ideogram4_lora_trainer.trainer_core.errors import RemoteRefused
from ideogram4_lora_trainer.trainer_core.remote import ALLOW_HOSTS, Network, check_url, fetch, post_json, shown_url
from internet import PUBLIC, Internet, ok, redirect, running_internet

WHATS = ("dataset", "lora", "image", "webhook")


@pytest.fixture
def internet(tmp_path: Path) -> Iterator[Internet]:
    with running_internet(tmp_path) as internet:
        internet.addresses |= {
            "nas.lan": ["192.168.1.5"],
            "xn--bcher-kva.lan": ["192.168.1.6"],
            "both.lan": [PUBLIC, "10.0.0.1"],
            "fd00::1": ["fd00::1"],
            "192.168.1.7": ["192.168.1.7"],
            "odd.lan": ["localhost"],
        }
        internet.answers |= {"/": ok(b"here"), "/away": redirect("https://nas.lan/"), "/out": redirect("https://x.lan")}
        yield internet


def said(call: Any, *args: Any, **options: Any) -> str:
    """The message of a refusal, or "" where there was none."""
    try:
        call(*args, **options)
    except RemoteRefused as refusal:
        assert refusal.code == "url_refused"
        return str(refusal)
    return ""


FORBIDDEN = (
    "http://dataset.test/", "file:///etc/passwd", "", "x", "//dataset.test/", "https:///x", "https://u:p@dataset.test/",
    "https://dataset.test:0/", "https://dataset.test:99999/", "https://[x/", "https://dataset.test/a b",
    "https://dataset.test/" + "a" * 8192, "https://nowhere.test/", "https://dataset..test/", "https://nas.lan/",
    "https://both.lan/", "https://[fd00::1]/", "https://192.168.1.7/", "https://127.0.0.1\\@dataset.test/",
)  # fmt: skip


@pytest.mark.parametrize("what", WHATS)
@pytest.mark.parametrize("url", FORBIDDEN)
def test_what_is_refused_is_refused_beforehand(internet: Internet, tmp_path: Path, url: str, what: Any) -> None:
    early = said(check_url, url, network=internet.network, what=what)
    assert early.startswith("The URL ") and early.endswith(".")
    late = said(fetch, url, network=internet.network, what=what, max_bytes=100, folder=tmp_path)
    assert early == late and internet.connected == []
    if what == "webhook":
        assert said(post_json, url, b"{}", network=internet.network) == early and internet.connected == []


@pytest.mark.parametrize("what", WHATS)
def test_what_is_allowed_is_looked_up_and_not_fetched(internet: Internet, what: Any) -> None:
    check_url("https://dataset.test/", network=internet.network, what=what)
    check_url("HTTPS://Dataset.TEST:8443/a?b#c", network=internet.network, what=what)
    assert internet.connected == []


def test_the_advice_is_for_what_is_fetched() -> None:
    advice = {what: said(check_url, "http://dataset.test/", what=what) for what in WHATS}
    assert "upload the zip" in advice["dataset"] and "models/loras" in advice["lora"]
    assert "data URI" in advice["image"] and advice["webhook"].endswith("not an https URL; use https.")


@pytest.mark.parametrize("uri", ["data:image/png,x", "data:", "data:image/png;base64,*", "data:image/png;base64,abc"])
def test_the_form_of_a_data_uri_is_checked(uri: str) -> None:
    for what in ("dataset", "image"):
        message = said(check_url, uri, what=what)
        assert message.startswith("The data URI ") and message == said(fetch, uri, what=what, max_bytes=100)


def test_data_uris_are_for_datasets_and_images(tmp_path: Path) -> None:
    uri = "data:image/png;base64," + base64.b64encode(b"secret").decode()
    for what in ("dataset", "image"):
        check_url(uri, what=what)
        assert fetch(uri, what=what, max_bytes=6) == b"secret"
    for what in ("lora", "webhook"):
        assert "is not an https URL" in (message := said(check_url, uri, what=what)) and "c2Vj" not in message
        assert said(fetch, uri, what=what, max_bytes=6, folder=tmp_path) == message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@dataset.test:8443/a?secret#secret", "https://dataset.test:8443/a"),
        ("https://dataset.test/a:1?secret", "https://dataset.test/a:1"),
        ("https://dataset.test:x/a?secret", "https://dataset.test/a"),
        ("https://[x/secret", "given"),
        ("mine.zip?secret", "mine.zip"),
        ("https://dataset.test/\x1b[2J\u202e", "https://dataset.test/\\x1b[2J\\u202e"),
    ],
)
def test_how_a_url_is_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown


# ---- hosts that the owner of the machine has opened ------------------------------------------------------------


def allowing(internet: Internet, monkeypatch: pytest.MonkeyPatch, hosts: str) -> Network:
    monkeypatch.setenv(ALLOW_HOSTS, hosts)
    return internet.network


@pytest.mark.parametrize(
    ("hosts", "allowed", "refused"),
    [
        ("nas.lan", ("https://nas.lan/", "https://NAS.lan:8443/"), ("https://both.lan/", "https://192.168.1.5/")),
        ("nas.lan:8443", ("https://nas.lan:8443/",), ("https://nas.lan/", "https://nas.lan:443/")),
        ("nas.lan:443", ("https://nas.lan/", "https://nas.lan:443/"), ("https://nas.lan:8443/",)),
        (" NAS.LAN , both.lan:443,", ("https://nas.lan/", "https://both.lan/"), ("https://both.lan:1/",)),
        ("bücher.lan", ("https://bücher.lan/", "https://xn--bcher-kva.lan/"), ("https://nas.lan/",)),
        ("XN--Bcher-KVA.lan", ("https://BÜCHER.lan/",), ()),
        ("192.168.1.7", ("https://192.168.1.7/",), ("https://nas.lan/",)),
        ("fd00:0::1", ("https://[fd00::1]/", "https://[fd00::1]:8443/"), ()),
        ("[FD00::1]:443", ("https://[fd00::1]/",), ("https://[fd00::1]:8443/",)),
        ("lan", (), ("https://nas.lan/",)),
        ("as.lan,nas.la,nas.lan.", (), ("https://nas.lan/",)),
        ("", (), ("https://nas.lan/",)),
    ],
)
def test_an_entry_opens_that_host_or_that_port(
    internet: Internet, monkeypatch: pytest.MonkeyPatch, hosts: str, allowed: tuple[str], refused: tuple[str]
) -> None:
    network = allowing(internet, monkeypatch, hosts)
    for url in allowed:
        check_url(url, network=network)
    for url in refused:
        message = said(check_url, url, network=network)
        assert "private or reserved" in message or "cannot be found" in message


@pytest.mark.parametrize(
    "hosts",
    ["https://nas.lan", "nas.lan/x", "*", "*.lan", "nas.lan:x", "nas.lan:0", "nas.lan:65536", ":443", "nas.lan;a.lan",
     "nas lan", "[nas.lan]", "[::1", "::g", "a..b", "user@nas.lan", "nas.lan:", "a" * 70 + ".lan"],
)  # fmt: skip
def test_an_entry_that_is_no_host_is_not_passed_over(
    internet: Internet, monkeypatch: pytest.MonkeyPatch, hosts: str
) -> None:
    monkeypatch.setenv(ALLOW_HOSTS, "nas.lan," + hosts)
    message = said(check_url, "https://dataset.test/")
    assert "entry 2 of IDEOGRAM4_ALLOW_HOSTS" in message and hosts not in message


def test_an_opened_host_is_fetched_from(internet: Internet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By its certificate, which names dataset.test and other.test alone."""
    internet.addresses["other.test"] = ["10.0.0.8"]
    network = allowing(internet, monkeypatch, "other.test, nas.lan")
    path = fetch("https://other.test/", network=network, max_bytes=100, folder=tmp_path)
    assert isinstance(path, Path) and path.read_bytes() == b"here"
    assert post_json("https://other.test/", b"{}", network=network) == 200
    assert internet.connected == [("10.0.0.8", 443)] * 2
    assert "no valid certificate" in said(fetch, "https://nas.lan/", network=network, max_bytes=100, folder=tmp_path)


def test_other_rules_stay_for_an_opened_host(internet: Internet, monkeypatch: pytest.MonkeyPatch) -> None:
    network = allowing(internet, monkeypatch, "nas.lan,odd.lan")
    assert "not an https URL" in said(check_url, "http://nas.lan/", network=network)
    assert "user name" in said(check_url, "https://u:p@nas.lan/", network=network)
    assert "private" in said(check_url, "https://odd.lan/", network=network)  # its address is no number


def test_a_redirect_is_judged_by_the_list_too(
    internet: Internet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    internet.addresses |= {"other.test": ["10.0.0.8"], "x.lan": ["10.0.0.9"]}
    network = allowing(internet, monkeypatch, "other.test")
    options = {"network": network, "max_bytes": 100, "folder": tmp_path}
    for target in ("away", "out"):
        assert "leads to a private" in said(fetch, f"https://other.test/{target}", **options)
    internet.answers["/in"] = redirect("https://other.test/")
    assert fetch("https://dataset.test/in", **options).read_bytes() == b"here"  # type: ignore[union-attr]
    assert {address for address, _ in internet.connected} == {PUBLIC, "10.0.0.8"}


def test_without_the_variable_the_system_is_asked_and_nothing_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOW_HOSTS, raising=False)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was made"))
    assert "private or reserved" in said(check_url, "https://127.0.0.1:8188/")
    monkeypatch.setenv(ALLOW_HOSTS, "127.0.0.1:8188")
    check_url("https://127.0.0.1:8188/")
