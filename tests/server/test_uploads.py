"""A dataset that arrives in parts: whole or not at all, never over another one, and never out of its folder."""

from __future__ import annotations

import functools
import http.client
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from dataset_forge import Entry, forge, quoted_overlap_bomb, zip_of
from datasets import dataset_zip, picture
from ideogram4_lora_trainer.server import upload_files, uploads
from route_client import PREFIX, RouteClient, served

ZIP = dataset_zip(3)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The input folder; a file beside it must never change."""
    folder = tmp_path / "input"
    folder.mkdir()
    (tmp_path / "secret.zip").write_bytes(b"outside")
    return folder


@pytest.fixture
def client(root: Path) -> Iterator[RouteClient]:
    with served(functools.partial(uploads.add_routes, folder=lambda: root)) as client:
        yield client
    assert (root.parent / "secret.zip").read_bytes() == b"outside"
    assert sorted(path.name for path in root.parent.iterdir()) == ["input", "secret.zip"]


def entries(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


# ---- what arrives ---------------------------------------------------------------------------------------------


def test_a_zip_is_there_byte_for_byte(client: RouteClient, root: Path) -> None:
    dataset = client.upload(("pets.zip", ZIP))
    assert (dataset["name"], dataset["kind"]) == ("pets.zip", "zip")
    assert (root / "pets.zip").read_bytes() == ZIP
    assert entries(root) == ["pets.zip"]


def test_many_parts_need_no_larger_bodies(client: RouteClient, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "PART_BYTES", 100)
    monkeypatch.setattr(uploads, "_WRITE_BYTES", 7)
    client.upload(("pets.zip", ZIP))
    assert (root / "pets.zip").read_bytes() == ZIP


def test_a_part_may_be_larger_than_comfyui_accepts(client: RouteClient, root: Path) -> None:
    data = zip_of({"a.png": picture(0), "junk.bin": os.urandom(9 * 2**20)})
    client.upload(("large.zip", data))  # the server of these tests accepts 1024 bytes elsewhere
    assert (root / "large.zip").read_bytes() == data


def test_loose_files_become_a_folder(client: RouteClient, root: Path) -> None:
    files = [("a.png", picture(0)), ("a.txt", b"a disc"), ("sub/b.png", picture(1)), ("sub/b.txt", b"")]
    dataset = client.upload(*files, name="my set")
    assert (dataset["name"], dataset["kind"]) == ("my set", "folder")
    assert {path.relative_to(root / "my set").as_posix() for path in (root / "my set").rglob("*.*")} == dict(
        files
    ).keys()
    assert all((root / "my set" / name).read_bytes() == data for name, data in files)
    assert client.upload(("a.png", picture(0)))["name"] == "images"


def test_images_without_captions_are_welcome(client: RouteClient) -> None:
    assert client.upload(("bare.zip", dataset_zip(2, captions=False)))["name"] == "bare.zip"


def test_the_same_again_is_the_same_dataset(client: RouteClient, root: Path) -> None:
    other = dataset_zip(2)
    names = [client.upload(("pets.zip", data))["name"] for data in (ZIP, other, ZIP, other)]
    assert names == ["pets.zip", "pets_2.zip", "pets.zip", "pets_2.zip"]
    folders = [[("a.png", picture(index))] for index in (0, 1, 0)]
    assert [client.upload(*files, name="f")["name"] for files in folders] == ["f", "f_2", "f"]
    assert entries(root) == ["f", "f_2", "pets.zip", "pets_2.zip"]


def test_a_name_that_is_taken_by_anything_is_left_alone(client: RouteClient, root: Path) -> None:
    (root / "pets.zip").mkdir()
    (root / "pets_2.zip").symlink_to("nowhere")
    (root / "pets_3.zip").write_bytes(ZIP[:-1])
    (root / "f").mkdir()  # empty: a rename would replace it
    assert client.upload(("pets.zip", ZIP))["name"] == "pets_4.zip"
    assert client.upload(("a.png", picture(0)), name="f")["name"] == "f_2"
    assert (root / "pets_3.zip").read_bytes() == ZIP[:-1]
    assert not any((root / "f").iterdir())
    assert not (root / "nowhere").exists()


# ---- what is refused ------------------------------------------------------------------------------------------

WORDS: dict[str, tuple[list[tuple[str, int]], str]] = {
    "nothing": ([], "Nothing was chosen"),
    "out": ([("../secret.zip", 5)], "cannot be the name"),
    "absolute": ([("/etc/pets.zip", 5)], "absolute"),
    "drive": ([("C:\\pets.zip", 5)], "absolute"),
    "nul": ([("a\0.zip", 5)], "not every system"),
    "surrogate": ([("\ud800.zip", 5)], "not every system"),
    "hidden": ([(".pets.zip", 5)], "starts with a dot"),
    "device": ([("con.zip", 5)], "device"),
    "folder of a zip": ([("a/pets.zip", 5)], "folder"),
    "image out": ([("a/../../b.png", 5)], "cannot be the name"),
    "image absolute": ([("/b.png", 5)], "absolute"),
    "two zips": ([("a.zip", 5), ("b.zip", 5)], "one zip alone"),
    "zip and image": ([("a.zip", 5), ("b.png", 5)], "one zip alone"),
    "one file on some systems": ([("a.png", 5), ("A.png", 5)], "one file"),
    "program": ([("a.exe", 5), ("b.png", 5)], "a.exe"),
    "page": ([("a.html", 5), ("b.png", 5)], "a.html"),
    "photo of a phone": ([("a.heic", 5)], "HEIC"),
    "another archive": ([("a.7z", 5)], "zip"),
    "captions alone": ([("a.txt", 5)], "no image"),
    "empty image": ([("a.png", 0)], "empty"),
    "empty zip": ([("a.zip", 0)], "empty"),
    "large zip": ([("a.zip", 64 * 2**30 + 1)], "Make it smaller"),
    "large image": ([("a.png", 257 * 2**20)], "Make it smaller"),
    "large caption": ([("a.png", 5), ("a.txt", 65 * 2**10)], "Make it smaller"),
    "large in all": ([(f"{i}.png", 255 * 2**20) for i in range(260)], "in all"),
    "many": ([(f"{i}.png", 1) for i in range(20_001)], "20,000"),
}


@pytest.mark.parametrize("case", WORDS)
def test_refused_in_words_before_a_byte_is_sent(client: RouteClient, root: Path, case: str) -> None:
    files, words = WORDS[case]
    answer = client.begin(files)
    assert answer.status == 400
    assert words in answer.error["message"], answer.error
    assert entries(root) == []


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "a\0b", "..", ".", "nul", ".x", "x" * 300, 5, ["x"]])
def test_a_folder_has_an_honest_name(client: RouteClient, root: Path, name: Any) -> None:
    assert client.begin([("a.png", 5)], name=name).status == 400
    assert entries(root) == []


@pytest.mark.parametrize(
    "files",
    [None, "x", 5, {}, [5], [None], [["a.png", 5]], [{"name": "a.png"}], [{"bytes": 5}], [{"name": 5, "bytes": 5}]]
    + [[{"name": "a.png", "bytes": size}] for size in (-1, 1.5, True, "5", None, 2**53, 10**300)],
)
def test_a_list_of_another_form(client: RouteClient, files: Any) -> None:
    assert client.post("/uploads", {"files": files}).status == 400


BAD_ZIPS: dict[str, bytes] = {
    "cut": ZIP[:-30],
    "no zip": b"hello",
    "no images": zip_of({"a.txt": "x"}),
    "overlapping bomb": quoted_overlap_bomb(50, picture(0) + b"\0" * 10_000),
    "name that leads out": forge([Entry(b"../a.png", picture(0))]),
    "no image inside": zip_of({"a.png": b"<svg onload=alert(1)>"}),
    "caption bomb": zip_of({"a.png": picture(0), "a.txt": b"a" * (10 * 2**20)}),
    "false size": forge([Entry(b"a.png", picture(0)), Entry(b"a.txt", b"a" * 500, size=5)]),
}


@pytest.mark.parametrize("case", BAD_ZIPS)
def test_what_cannot_be_used_leaves_nothing(client: RouteClient, root: Path, case: str) -> None:
    token = client.send([("bad.zip", BAD_ZIPS[case])])
    answer = client.finish(token)
    assert answer.status == 400
    assert "bad.zip" in answer.error["message"] and str(root) not in answer.error["message"]
    assert entries(root) == []
    assert client.finish(token).status == 404


def test_a_folder_that_cannot_be_used_leaves_nothing(client: RouteClient, root: Path) -> None:
    answer = client.finish(client.send([("a.png", picture(0)), ("b.png", b"no picture")], name="set"))
    assert answer.status == 400 and "b.png" in answer.error["message"]
    assert entries(root) == []


def test_a_full_disk_is_told_first_and_without_paths(
    client: RouteClient, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(free=150)
    monkeypatch.setattr("ideogram4_lora_trainer.trainer_core.storage.shutil.disk_usage", lambda _: usage)
    assert client.begin([("a.zip", 100)]).status == 200
    answer = client.begin([("b.zip", 100)])  # what the first one still needs is not free
    assert (answer.status, answer.error["code"]) == (507, "no_room")
    assert str(root) not in answer.error["message"]
    assert len(entries(root)) == 1


# ---- parts ----------------------------------------------------------------------------------------------------


def test_parts_out_of_order_and_twice(client: RouteClient, root: Path) -> None:
    token = client.begin([("pets.zip", len(ZIP))]).json["upload"]
    refused = client.part(token, 0, 100, ZIP[100:200])
    assert (refused.status, refused.error["code"], refused.error["received"]) == (409, "wrong_offset", 0)
    assert client.part(token, 0, 0, ZIP[:100]).json == {"received": 100}
    again = client.part(token, 0, 0, b"x" * 100)
    assert (again.status, again.error["received"]) == (409, 100)
    assert client.finish(token).error["code"] == "incomplete"
    assert client.part(token, 0, 100, ZIP[100:]).json == {"received": len(ZIP)}
    assert client.part(token, 0, len(ZIP), b"").json == {"received": len(ZIP)}
    assert client.finish(token).status == 200
    assert (root / "pets.zip").read_bytes() == ZIP


def test_more_than_was_declared(client: RouteClient, monkeypatch: pytest.MonkeyPatch) -> None:
    token = client.begin([("pets.zip", 100)]).json["upload"]
    assert client.part(token, 0, 0, ZIP[:101]).status == 413
    assert client.part(token, 0, 0, ZIP[:100]).json == {"received": 100}
    assert client.part(token, 0, 100, b"x").status == 413
    monkeypatch.setattr(uploads, "PART_BYTES", 10)
    token = client.begin([("pets.zip", 100)]).json["upload"]
    assert client.part(token, 0, 0, ZIP[:11]).status == 413


def raw_part(client: RouteClient, token: str, length: int | None, body: bytes) -> int:
    """A part whose Content-Length is not that of its body; None sends it in chunks. Returns the status, 0 for none."""
    connection = http.client.HTTPConnection(client.address, timeout=10)
    connection.putrequest("POST", f"{PREFIX}/uploads/{token}/files/0?offset=0")
    connection.putheader("Content-Type", "application/octet-stream")
    if length is None:
        connection.putheader("Transfer-Encoding", "chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    else:
        connection.putheader("Content-Length", str(length))
    connection.endheaders(body)
    if length is not None and length > len(body):
        connection.sock.close()
        return 0
    status = connection.getresponse().status
    connection.close()
    return status


def test_lengths_that_lie(client: RouteClient) -> None:
    token = client.begin([("pets.zip", len(ZIP))]).json["upload"]
    assert raw_part(client, token, None, ZIP + b"x") == 413
    raw_part(client, token, len(ZIP), ZIP[:50])  # cut off: nothing of it counts
    answer = client.part(token, 0, 50, ZIP[50:])
    while answer.error["code"] == "busy":  # the server has not noticed yet that nobody is there
        answer = client.part(token, 0, 50, ZIP[50:])
    assert answer.error["received"] == 0
    assert raw_part(client, token, None, ZIP) == 200
    assert client.finish(token).status == 200


@pytest.mark.parametrize("offset", ["", "-1", "x", "1.0", "0x0", "٣", "9" * 17, "1e3"])
def test_offsets_are_numbers(client: RouteClient, offset: str) -> None:
    token = client.begin([("pets.zip", 5)]).json["upload"]
    path = f"/uploads/{token}/files/0?offset={quote(offset)}"
    assert client.ask("POST", path, b"x", Content_Type="application/octet-stream").status == 400


def test_files_and_uploads_that_are_not_there(client: RouteClient) -> None:
    token = client.begin([("pets.zip", 5)]).json["upload"]
    assert client.part(token, 1, 0, b"x").status == 404
    for wrong in ("x", token[:-1], token + "a", "..%2f..", "%00", token.swapcase()):
        assert client.part(wrong, 0, 0, b"x").status == 404
        assert client.finish(wrong).status == 404
        assert client.post(f"/uploads/{wrong}/cancel").status == 404
    assert len(token) >= 40
    assert client.begin([("pets.zip", 5)]).json["upload"] != token


# ---- the end of an upload -------------------------------------------------------------------------------------


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    results: list[Any] = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def run(index: int) -> None:
        barrier.wait()
        results[index] = calls[index]()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_finishes_at_once(client: RouteClient, root: Path) -> None:
    token = client.send([("pets.zip", ZIP)])
    answers = at_once(*[lambda: client.finish(token)] * 4)
    assert sorted(answer.status for answer in answers)[0] == 200
    assert sorted(answer.status for answer in answers)[1] in (404, 409)
    assert entries(root) == ["pets.zip"]


def test_two_uploads_that_finish_at_once(client: RouteClient, root: Path) -> None:
    tokens = [client.send([("pets.zip", dataset_zip(count))]) for count in (1, 2, 3)]
    answers = at_once(*[functools.partial(client.finish, token) for token in tokens])
    assert sorted(answer.json["dataset"]["name"] for answer in answers) == ["pets.zip", "pets_2.zip", "pets_3.zip"]
    assert {(root / name).read_bytes() for name in entries(root)} == {dataset_zip(count) for count in (1, 2, 3)}


def test_cancelled(client: RouteClient, root: Path) -> None:
    token = client.send([("pets.zip", ZIP)])
    assert client.post(f"/uploads/{token}/cancel").status == 200
    assert entries(root) == []
    assert client.finish(token).status == 404


def test_cancelled_while_a_part_arrives(client: RouteClient, root: Path) -> None:
    token = client.begin([("pets.zip", len(ZIP))]).json["upload"]
    connection = http.client.HTTPConnection(client.address, timeout=10)
    connection.putrequest("POST", f"{PREFIX}/uploads/{token}/files/0?offset=0")
    connection.putheader("Content-Type", "application/octet-stream")
    connection.putheader("Content-Length", str(len(ZIP)))
    connection.endheaders(ZIP[:100])
    while client.part(token, 0, 0, ZIP).error["code"] != "busy":
        pass
    assert client.finish(token).error["code"] == "busy"
    assert client.post(f"/uploads/{token}/cancel").status == 200
    connection.send(ZIP[100:])
    assert connection.getresponse().status == 404
    connection.close()
    assert entries(root) == []


def test_a_few_at_a_time_and_a_reloaded_tab_makes_room(
    client: RouteClient, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = [client.begin([("pets.zip", 5)]).json["upload"] for _ in range(uploads.MAX_UPLOADS)]
    assert client.begin([("pets.zip", 5)]).status == 429
    monkeypatch.setattr(uploads, "REPLACEABLE_AFTER_S", 0.0)
    assert client.begin([("pets.zip", 5)]).status == 200
    assert client.part(tokens[0], 0, 0, b"x").status == 404
    assert client.part(tokens[1], 0, 0, b"x").status == 200
    assert len(entries(root)) == uploads.MAX_UPLOADS


def test_what_is_given_up_goes_away(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "IDLE_S", 0.01)
    with served(functools.partial(uploads.add_routes, folder=lambda: root)) as client:
        token = client.send([("pets.zip", ZIP)])
        while client.part(token, 0, 0, b"").status != 404:
            pass
        while entries(root):
            pass


def test_what_a_dead_server_left_goes_away_at_the_next_start(root: Path) -> None:
    old, new, other = (root / f"{upload_files.ASIDE_PREFIX}{name}" for name in ("old", "new", "x"))
    for folder in (old, new):
        (folder / "content").mkdir(parents=True)
        (folder / "content" / "pets.zip").write_bytes(ZIP)
    for path in (*old.rglob("*"), old, new):
        os.utime(path, (1, 1))
    other.symlink_to(root.parent)
    with served(functools.partial(uploads.add_routes, folder=lambda: root)):
        pass
    assert not old.exists()
    assert new.exists(), "another server may still be receiving it: its file is new"
    assert (root.parent / "secret.zip").exists()


# ---- who asks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.test"}, {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}]
)
def test_pages_of_other_sites(client: RouteClient, root: Path, headers: dict[str, str]) -> None:
    token = client.send([("pets.zip", ZIP)])
    before = entries(root)
    for path in ("/uploads", f"/uploads/{token}/finish", f"/uploads/{token}/cancel", f"/uploads/{token}/files/0"):
        assert client.post(path, {"files": [{"name": "a.zip", "bytes": 5}]}, **headers).status == 403
    assert entries(root) == before
    assert client.finish(token).status == 200


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"])
def test_forms_that_a_page_could_send_unasked(client: RouteClient, kind: str) -> None:
    body = b'{"files": [{"name": "a.zip", "bytes": 5}]}'
    assert client.ask("POST", "/uploads", body, Content_Type=kind).status == 415
    token = client.begin([("pets.zip", 5)]).json["upload"]
    assert client.part(token, 0, 0, b"x", Content_Type=kind).status == 415


def test_a_list_beyond_its_limit(client: RouteClient) -> None:
    body = b'{"files": [' + b" " * uploads.MAX_START_BYTES + b"]}"
    assert client.ask("POST", "/uploads", body, Content_Type="application/json").status == 413
    deep = b'{"files": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert client.ask("POST", "/uploads", deep, Content_Type="application/json").status == 400
