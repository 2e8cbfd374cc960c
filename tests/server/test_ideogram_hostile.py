"""Uploads that were made to do harm, or are no uploads: refused in words, with nothing left behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from dataset_forge import SYMLINK, Entry, forge, png, quoted_overlap_bomb, zip_of
from datasets import picture
from ideogram4_lora_trainer.server.ideogram import intake, receive, routes
from ideogram_client import KEY, IdeogramClient, ideogram_served, reasons

BOUNDARY = "edge"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
END = f"--{BOUNDARY}--\r\n".encode()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[IdeogramClient]:
    """Whatever is asked, nothing may appear outside of the dataset's folder, nor be left of what was refused."""
    (tmp_path / "secret.png").write_bytes(b"outside")
    with ideogram_served(tmp_path) as client:
        yield client
    assert (tmp_path / "secret.png").read_bytes() == b"outside"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input", "output", "secret.png", "temp", "user"]
    assert [path.name for path in (tmp_path / "input").iterdir()] in ([], ["ideogram"])
    assert not list((tmp_path / "input").rglob(".*"))
    assert not list((tmp_path / "output").iterdir())


@pytest.fixture
def dataset(client: IdeogramClient) -> dict[str, Any]:
    return client.create()


@contextlib.contextmanager
def connected(client: IdeogramClient) -> Iterator[http.client.HTTPConnection]:
    with contextlib.closing(http.client.HTTPConnection(urlsplit(client.url).netloc, timeout=60)) as connection:
        yield connection


def part(name: str | bytes, data: bytes, *headers: str, field: str = "files") -> bytes:
    name = name.encode() if isinstance(name, str) else name
    head = b'--%s\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n'
    more = "".join(f"{header}\r\n" for header in headers).encode()
    return head % (BOUNDARY.encode(), field.encode(), name) + more + b"\r\n" + data + b"\r\n"


def send_raw(client: IdeogramClient, dataset: dict[str, Any], body: bytes, kind: str = FORM) -> tuple[int, Any]:
    """The status and the JSON of an answer to a body that is sent as it is."""
    path = f"/ideogram/datasets/{dataset['dataset_id']}/upload_assets"
    with connected(client) as connection:
        connection.request("POST", path, body, {"Api-Key": KEY, "Content-Type": kind})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


# ---- names and ids -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "/etc/secret.png",
        "C:\\secret.png",
        "..\\..\\secret.png",
        "folder/a.png",
        "a\u202egnp.png",
        "con.png",
        ".hidden.png",
        "a:b.png",
        "a?.png",
        "x" * 300 + ".png",
        " .png",
        b"\xff\xfe.png",
    ],
)
def test_a_name_that_is_a_path_or_cannot_be_stored_is_a_failure(
    client: IdeogramClient, dataset: dict[str, Any], name: str | bytes
) -> None:
    status, summary = send_raw(client, dataset, part(name, png()) + part("good.png", picture(1)) + END)
    assert status == 200, summary
    assert (summary["success_count"], summary["failure_count"]) == (1, 1)
    assert client.files(dataset).keys() == {"good.png"}


@pytest.mark.filterwarnings("ignore::aiohttp.multipart.BadContentDispositionParam")
@pytest.mark.parametrize("name", ["a%00.png", "a%1b%5b2J.png", "..%2fsecret.png", "%ff%fe.png", "%ed%a0%80.png"])
def test_a_name_that_hides_what_it_is(client: IdeogramClient, dataset: dict[str, Any], name: str) -> None:
    """As clients write the names that are not ASCII."""
    sent = part("NAME", png()).replace(b'filename="NAME"', f"filename*=utf-8''{name}".encode())
    status, summary = send_raw(client, dataset, sent + part("good.png", picture(1)) + END)
    assert (status, summary["failure_count"]) == (200, 1)
    assert client.files(dataset).keys() == {"good.png"}


def test_names_that_are_one_file_on_some_systems(client: IdeogramClient, dataset: dict[str, Any]) -> None:
    summary = client.upload(dataset, ("cat.png", picture(0)), ("Cat.png", picture(1)), ("CAT.PNG", picture(0)))
    assert summary["success_count"] == 1
    assert client.upload(dataset, ("cat.txt", b"a cat"), ("Cat.txt", b"another"))["caption_count"] == 1
    assert len(client.files(dataset)) == 2


@pytest.mark.parametrize(
    "dataset_id",
    ["..", "../settings", "..%2f..%2fsettings", "%2e%2e%2fmodels", "x" * 22, "a" * 5000, "%00", "settings.json", "*"],
)
def test_an_id_is_never_a_path(client: IdeogramClient, dataset: dict[str, Any], dataset_id: str) -> None:
    for method, path in (
        ("GET", f"/ideogram/datasets/{dataset_id}"),
        ("GET", f"/ideogram/models/{dataset_id}"),
        ("POST", f"/ideogram/datasets/{dataset_id}/upload_assets"),
    ):
        with connected(client) as connection:
            connection.request(method, path, headers={"Api-Key": KEY})
            response = connection.getresponse()
            assert response.status == 404, path
            assert b"secret" not in response.read()


def test_a_link_in_the_folder_is_not_written_through(
    client: IdeogramClient, dataset: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "input" / dataset["folder"]
    (folder / "a.png").symlink_to(tmp_path / "secret.png")
    (folder / "a.txt").symlink_to(tmp_path / "new.txt")
    summary = client.upload(dataset, ("a.png", picture(0)), ("b.png", picture(1)))
    assert reasons(summary).keys() == {"a.png"}
    client.upload(dataset, ("a.txt", b"words"))
    assert not (tmp_path / "new.txt").exists()


# ---- what is in the files ------------------------------------------------------------------------------------


def test_one_bad_file_does_not_cost_the_others(client: IdeogramClient, dataset: dict[str, Any]) -> None:
    good = picture(0)
    summary = client.upload(
        dataset,
        ("cut.png", good[: len(good) // 2]),
        ("text.jpg", b"no image"),
        ("empty.webp", b""),
        ("photo.heic", b"x"),
        ("run.exe", b"MZ"),
        ("noname", b"x"),
        ("utf16.txt", "words".encode("utf-16")),
        ("long.txt", b"x" * (2**16 + 1)),
        ("good.png", good),
        ("good.txt", b"fine"),
    )
    assert (summary["success_count"], summary["caption_count"], summary["failure_count"]) == (1, 1, 8)
    assert client.files(dataset).keys() == {"good.png", "good.txt"}
    assert all(len(reason) > 15 for reason in reasons(summary).values())


ZIPS: dict[str, tuple[bytes, str]] = {
    "no zip": (b"PK no zip", "zip"),
    "empty": (b"", "zip"),
    "web page": (b"<!DOCTYPE html><p>Log in", "web page"),
    "rar": (b"Rar!\x1a\x07\x00", "RAR"),
    "slip": (forge([Entry(b"../../secret.png", png())]), "outside"),
    "absolute": (forge([Entry(b"/etc/cron.png", png())]), "outside"),
    "drive": (forge([Entry(b"C:\\x.png", png())]), "outside"),
    "twice": (forge([Entry(b"a.png", png()), Entry(b"A.png", png())]), "one file"),
    "bomb of zeros": (zip_of({"a.png": bytes(40 * 2**20)}), "expands"),
    "overlapping": (quoted_overlap_bomb(20, png()), "overlap"),
    "understated": (forge([Entry(b"a.png", png(), size=10)]), "more than the archive declares"),
    "encrypted": (forge([Entry(b"a.png", png(), flags=1)]), "encrypted"),
    "checksum": (forge([Entry(b"a.png", png(), crc=zlib.crc32(b"x"))]), "checksum"),
    "link": (forge([Entry(b"a.png", b"../secret.png", unix_mode=SYMLINK)]), "link"),
}


@pytest.mark.parametrize("kind", ZIPS)
def test_a_zip_that_means_harm_is_a_failure_and_nothing_of_it_is_there(
    client: IdeogramClient, dataset: dict[str, Any], kind: str
) -> None:
    data, words = ZIPS[kind]
    summary = client.upload(dataset, ("set.zip", data), ("good.png", picture(1)))
    assert (summary["success_count"], summary["failure_count"]) == (1, 1)
    assert words in next(iter(reasons(summary).values()))
    assert client.files(dataset).keys() == {"good.png"}


def test_one_bad_file_of_a_zip_does_not_cost_the_others(client: IdeogramClient, dataset: dict[str, Any]) -> None:
    entries = [Entry(b"a.png", png(seed=1)), Entry(b"b.png", png(seed=2), crc=1), Entry(b"c.png", png(seed=3))]
    summary = client.upload(dataset, ("set.zip", forge(entries)))
    assert reasons(summary).keys() == {"b.png"}
    assert client.files(dataset) == {"a.png": len(png(seed=1)), "c.png": len(png(seed=3))}


def test_a_zip_of_many_files_or_many_bytes(
    client: IdeogramClient, dataset: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    many = zip_of({f"{index}.txt": b"x" for index in range(2001)})
    assert "2,001 files" in reasons(client.upload(dataset, ("many.zip", many)))["many.zip"]
    monkeypatch.setattr(intake, "MAX_UNPACKED_BYTES", 100)
    assert "unpack to more" in reasons(client.upload(dataset, ("large.zip", zip_of({"a.png": png()}))))["large.zip"]


# ---- the body ------------------------------------------------------------------------------------------------

BODIES: dict[str, tuple[bytes, str, int]] = {
    "nothing": (b"", FORM, 400),
    "no parts": (END, FORM, 400),
    "text": (b"hello", "text/plain", 415),
    "json": (b'{"files": []}', "application/json", 415),
    "urlencoded": (b"files=a", "application/x-www-form-urlencoded", 415),
    "no boundary": (part("a.png", png()) + END, "multipart/form-data", 400),
    "long boundary": (part("a.png", png()) + END, "multipart/form-data; boundary=" + "x" * 100, 400),
    "other boundary": (part("a.png", png()) + END, "multipart/form-data; boundary=other", 400),
    "text as multipart": (b"hello " * 50_000, FORM, 400),
    "one line": (b"x" * 2**20, FORM, 400),
    "no end": (part("a.png", png()) + part("b.png", png())[:-40], FORM, 400),
    "no head": (f"--{BOUNDARY}\r\n".encode(), FORM, 400),
    "long head": (f"--{BOUNDARY}\r\nX: {'x' * 2**20}\r\n\r\n".encode() + END, FORM, 400),
    "many heads": (part("a.png", png(), *(f"X-{index}: y" for index in range(10_000))) + END, FORM, 400),
    "control characters": (part("a\x00.png", png()) + END, FORM, 400),
    "bad head": (f"--{BOUNDARY}\r\nno colon\r\n\r\nx\r\n".encode() + END, FORM, 400),
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_that_is_none_is_refused_in_words(client: IdeogramClient, dataset: dict[str, Any], kind: str) -> None:
    body, content_type, status = BODIES[kind]
    answered, told = send_raw(client, dataset, body, content_type)
    assert answered == status, told
    assert told.keys() == {"detail", "error_type"}
    assert client.files(dataset) == {}


def test_parts_that_are_no_files_are_failures(client: IdeogramClient, dataset: dict[str, Any]) -> None:
    inner = b'--in\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nx\r\n--in--\r\n'
    body = b"".join(
        [
            part("a.png", png(), field="images"),
            part("b.png", b"aGk=", "Content-Transfer-Encoding: base64"),
            part("", png()),
            part("in.png", inner, "Content-Type: multipart/mixed; boundary=in"),
            part("good.png", picture(0), "Content-Type: text/plain", "Content-Length: 3", "Content-Encoding: gzip"),
        ]
    )
    status, summary = send_raw(client, dataset, body + END)
    assert status == 200, summary
    assert (summary["success_count"], summary["failure_count"]) == (1, 4)
    assert client.files(dataset) == {"good.png": len(picture(0))}


def test_twenty_thousand_tiny_files(client: IdeogramClient, dataset: dict[str, Any]) -> None:
    body = b"".join(part(f"{index}.txt", b"x") for index in range(20_000)) + END
    status, told = send_raw(client, dataset, body)
    assert status == 400
    assert "zip" in told["detail"]
    assert client.files(dataset) == {}


def test_giant_bodies_and_giant_files(
    client: IdeogramClient, dataset: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/ideogram/datasets/{dataset['dataset_id']}/upload_assets"
    with connected(client) as connection:
        connection.putrequest("POST", path)
        for name, value in (("Api-Key", KEY), ("Content-Type", FORM), ("Content-Length", str(2**40))):
            connection.putheader(name, value)
        connection.endheaders()  # refused by what it says, before a byte of it is sent
        assert connection.getresponse().status == 413

    monkeypatch.setattr(receive, "MAX_IMAGE_BYTES", 2**16)
    status, summary = send_raw(client, dataset, part("a.png", bytes(2**20)) + part("b.png", picture(0)) + END)
    assert (status, list(reasons(summary))) == (200, ["a.png"])
    monkeypatch.setattr(receive, "MAX_BODY_BYTES", 2**18)
    assert send_raw(client, dataset, part("c.zip", bytes(2**20)) + END)[0] == 413
    pieces = iter([part("c.zip", bytes(2**17)), bytes(2**17), bytes(2**17), END])
    headers = {"Api-Key": KEY, "Content-Type": FORM, "Transfer-Encoding": "chunked"}
    with connected(client) as connection:
        connection.request("POST", path, pieces, headers, encode_chunked=True)
        assert connection.getresponse().status == 413
    assert client.files(dataset).keys() == {"b.png"}


def test_slow_bodies_are_given_up(
    client: IdeogramClient, dataset: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receive, "BODY_TIMEOUT_S", 0.2)
    address = urlsplit(client.url)
    head = (
        f"POST /ideogram/datasets/{dataset['dataset_id']}/upload_assets HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Api-Key: {KEY}\r\nContent-Type: {FORM}\r\nContent-Length: 100000\r\n\r\n"
    )
    for begun in (b"", b"--ed", part("a.png", bytes(5000))[:4000]):
        with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
            connection.sendall(head.encode() + begun)
            assert connection.recv(100).startswith(b"HTTP/1.1 408 "), begun
    monkeypatch.setattr(receive, "BODY_TIMEOUT_S", 30.0)
    monkeypatch.setattr(receive, "GRACE_S", -1e6)
    assert send_raw(client, dataset, part("a.png", png()) + END)[0] == 408


def test_a_client_that_goes_away_leaves_nothing(
    client: IdeogramClient, dataset: dict[str, Any], tmp_path: Path
) -> None:
    home, address = tmp_path / "input" / "ideogram", urlsplit(client.url)
    head = (
        f"POST /ideogram/datasets/{dataset['dataset_id']}/upload_assets HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Api-Key: {KEY}\r\nContent-Type: {FORM}\r\nContent-Length: 100000\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(head.encode() + part("a.png", png()) + part("b.png", bytes(5000))[:4000])
        while not list(home.glob(".*")):
            time.sleep(0.01)
    while list(home.glob(".*")):
        time.sleep(0.01)
    assert client.files(dataset) == {}
    assert client.upload(dataset, ("a.png", png()))["success_count"] == 1


def test_more_uploads_than_there_is_place_for(
    client: IdeogramClient, dataset: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "MAX_UPLOADS", 0)
    assert client.send(dataset, [("a.png", png())]).status_code == 429


# ---- who asks ------------------------------------------------------------------------------------------------


def test_every_route_wants_the_key_and_no_other_site(client: IdeogramClient, dataset: dict[str, Any]) -> None:
    without, wrong = (IdeogramClient(client.url.removesuffix("/ideogram"), key) for key in ("", "wrong"))
    for route in routes.ROUTES:
        path = route.path.format(dataset_id=dataset["dataset_id"], model_id="x" * 22)
        assert without.ask(route.method, path).status_code == 401, path
        assert client.ask(route.method, path, headers={"Origin": "https://elsewhere.example"}).status_code == 403
    assert wrong.get("/datasets").status_code == 401
    without.close()
    wrong.close()
