"""The settings page of the HTTP API: what it tells, what it lets through, and what it never keeps."""

from __future__ import annotations

import json
import os
import string
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import folder_paths
import pytest
from ideogram4_lora_trainer.server.api import page, settings
from ideogram4_lora_trainer.server.api.access import Guesses, keyed
from ideogram4_lora_trainer.server.api.settings import MODEL_KINDS, ApiSettings
from route_client import PREFIX, Answer, RouteClient, served

KEY = "a-key-of-" + string.ascii_letters
STANDARD_VAE = "flux2-vae.safetensors"
NAMES = {
    "diffusion_models": ["mine.safetensors", "sub/ideogram4_fp8_scaled.safetensors", "ideogram4_bf16.safetensors"],
    "text_encoders": [],
    "vae": ["mine_vae.safetensors", STANDARD_VAE],
}


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI's user folder, and models folders with files that are only names."""
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path / "user"))
    monkeypatch.delenv(settings.KEY_VARIABLE, raising=False)
    for folder, names in NAMES.items():
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        found = ([str(tmp_path / folder)], {".safetensors"})
        monkeypatch.setitem(folder_paths.folder_names_and_paths, folder, found)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path / "user"


@pytest.fixture
def client(user: Path) -> Iterator[RouteClient]:
    """The page's routes, and one that asks for the key."""

    def guarded_by_key(routes: Any) -> None:
        async def good(_: Any) -> Any:
            return page.web.json_response({})

        routes.get(f"{PREFIX}/keyed")(keyed(good, Guesses()))

    with served(page.add_routes, guarded_by_key) as asked:
        yield asked


def told(client: RouteClient) -> dict[str, Any]:
    answer = client.get("/api")
    assert answer.status == 200, answer.body
    return answer.json


def changed(client: RouteClient, **values: Any) -> dict[str, Any]:
    answer = client.post("/api", values)
    assert answer.status == 200, answer.body
    return answer.json


def opens(client: RouteClient, key: str) -> int:
    return client.get("/keyed", Authorization=f"Key {key}").status


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_key_turns_it_on_and_none_turns_it_off(client: RouteClient, user: Path) -> None:
    state = told(client)
    assert (state["on"], state["source"], state["problem"]) == (False, "", "")
    assert opens(client, KEY) == 403
    state = changed(client, key=KEY)
    assert (state["on"], state["source"], state) == (True, "settings", told(client))
    assert (opens(client, KEY), opens(client, KEY[::-1])) == (200, 401)
    changed(client, key=KEY[::-1])
    assert (opens(client, KEY), opens(client, KEY[::-1])) == (401, 200)
    assert not changed(client, key=None)["on"]
    assert opens(client, KEY) == 403


def test_the_key_is_nowhere_afterwards(client: RouteClient, user: Path) -> None:
    answers = [client.post("/api", {"key": KEY}), client.get("/api"), client.post("/api", {"max_images": 50})]
    kept = files_below(user)
    assert kept, "the settings are kept"
    for content in (*kept.values(), *(answer.body for answer in answers)):
        assert KEY.encode() not in content
    digest = ApiSettings.load().key_sha256.encode()
    assert all(digest not in answer.body for answer in answers)
    assert all(answer.headers["Cache-Control"] == "no-store" for answer in answers)


def test_choices_are_those_of_the_loaders(client: RouteClient) -> None:
    state = told(client)
    assert sorted(state["choices"]["unconditional"]) == sorted(NAMES["diffusion_models"])
    assert state["standard"] == {
        "diffusion_model": "sub/ideogram4_fp8_scaled.safetensors".replace("/", os.sep),
        "unconditional": "",
        "text_encoder": "",
        "vae": STANDARD_VAE,
    }
    assert state["models"] == dict.fromkeys(MODEL_KINDS, "")


def test_what_is_not_named_stays(client: RouteClient) -> None:
    changed(client, key=KEY)
    changed(client, models={"vae": "mine_vae.safetensors", "unconditional": "mine.safetensors"})
    changed(client, max_images=500)
    state = changed(client, models={"unconditional": "", "text_encoder": None})
    assert (state["on"], state["max_images"]) == (True, 500)
    assert state["models"] == dict.fromkeys(MODEL_KINDS, "") | {"vae": "mine_vae.safetensors"}
    assert changed(client) == state


def test_a_chosen_file_that_is_gone_is_still_told(client: RouteClient) -> None:
    ApiSettings(models={"vae": "gone.safetensors"}).save()
    state = changed(client, max_images=20)
    assert state["models"]["vae"] == "gone.safetensors"
    assert "gone.safetensors" not in state["choices"]["vae"]


def test_two_pages_at_once_do_not_undo_each_other(client: RouteClient) -> None:
    wishes = [{"key": KEY}, {"max_images": 321}, *({"models": {kind: "mine.safetensors"}} for kind in MODEL_KINDS[:2])]
    with ThreadPoolExecutor(len(wishes)) as pool:
        answers = list(pool.map(lambda wish: client.post("/api", wish), wishes))
    assert [answer.status for answer in answers] == [200] * len(wishes)
    kept = ApiSettings.load()
    assert (kept.max_images, kept.models) == (321, dict.fromkeys(MODEL_KINDS[:2], "mine.safetensors"))
    assert opens(client, KEY) == 200


def test_the_environment_counts_before_the_page(client: RouteClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.KEY_VARIABLE, KEY)
    state = told(client)
    assert (state["on"], state["source"], state["problem"]) == (True, "environment", "")
    for key in (KEY[::-1], None):
        answer = client.post("/api", {"key": key, "max_images": 77})
        assert (answer.status, answer.error["code"]) == (409, "key_of_environment")
        assert settings.KEY_VARIABLE in answer.error["message"]
    assert told(client)["max_images"] == state["max_images"], "all of it or nothing"
    assert changed(client, max_images=77)["max_images"] == 77
    monkeypatch.setenv(settings.KEY_VARIABLE, "short")
    state = told(client)
    assert (state["on"], state["source"]) == (False, "environment")
    assert settings.KEY_VARIABLE in state["problem"] and "short." not in state["problem"]


def test_addresses_are_those_of_this_server(client: RouteClient, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = told(client)["addresses"]
    assert addresses["base"] == f"http://{client.address}"
    assert addresses["fal_queue_run_host"] == f"{client.address}/fal/queue"
    monkeypatch.setenv("IDEOGRAM4_API_URL", "https://gpu.example/comfy/")
    assert told(client)["addresses"]["fal_run_host"] == "gpu.example/comfy/fal/run"


# ---- hostile -------------------------------------------------------------------------------------------------


def refused(answer: Answer, status: int = 400) -> None:
    assert answer.status == status, answer.body
    message = answer.error["message"]
    assert message.endswith((".", "!")) and len(message) < 300, "words for people"


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.test"}, {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}],
    ids=str,
)
def test_pages_of_other_sites_neither_read_nor_set(client: RouteClient, headers: dict[str, str]) -> None:
    refused(client.get("/api", **headers), 403)
    refused(client.post("/api", {"key": KEY}, **headers), 403)
    refused(client.ask("POST", "/api", json.dumps({"key": KEY}).encode(), Content_Type="text/plain"), 415)
    assert not told(client)["on"]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "fifteen-letters",
        "k" * 1025,
        "k" * 10_000,
        "with spaces in its middle",
        "schlüssel-mit-umlaut",
        "k" * 16 + "\n",
        "k" * 16 + "\r\nX-Evil: 1",
        "\ud800" * 20,
        "\x00" * 20,
        *(1234567890123456, 0, False, True, [KEY], {"key": KEY}),
    ],
    ids=lambda key: repr(key)[:20],
)
def test_a_key_that_no_client_could_send_is_refused(client: RouteClient, key: Any) -> None:
    changed(client, key=KEY)
    answer = client.post("/api", {"key": key, "max_images": 20})
    refused(answer)
    assert answer.error["code"] == "bad_key"
    assert opens(client, KEY) == 200
    assert told(client)["max_images"] == settings.DEFAULT_MAX_IMAGES


@pytest.mark.parametrize(
    "values",
    [
        *(
            {"max_images": value}
            for value in (0, -1, 14, 10_001, 10**400, 1.5, 1e308, float("nan"), "20", None, True, [])
        ),
        *({"models": value} for value in (None, [], "vae", 5, {"lora": "x"}, {"": ""}, {"vae": 5}, {"vae": ["a"]})),
        *(
            {"models": {"vae": name}}
            for name in ("../" * 9 + "etc/passwd", "/etc/passwd", "x" * 5000, "\x00", "\ud800")
        ),
        {"models": {"vae": "mine.safetensors"}},
        {"key_sha256": "0" * 64},
        {"on": True},
        {"__class__": {}},
    ],
    ids=lambda values: repr(values)[:40],
)
def test_other_values_are_refused_in_words(client: RouteClient, user: Path, values: dict[str, Any]) -> None:
    refused(client.post("/api", values))
    assert not files_below(user), "nothing was kept"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b'"key"', b"{", b"[" * 9000, b"\xff\xfe", b'{"key": 1' + b"0" * 9000]
)
def test_bodies_that_are_no_object_are_refused(client: RouteClient, body: bytes) -> None:
    refused(client.ask("POST", "/api", body, Content_Type="application/json"))


def test_a_giant_body_is_refused(client: RouteClient) -> None:
    refused(client.post("/api", {"key": "k" * 2**20}), 413)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\x00", b"[" * 9999, b"0" * 2**21], ids=lambda one: repr(one[:9])
)
def test_a_damaged_file_is_told_and_replaced(client: RouteClient, content: bytes) -> None:
    path = settings.api_folder() / "settings.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    state = told(client)
    assert not state["on"] and "damaged" in state["problem"]
    state = changed(client, key=KEY)
    assert (state["on"], state["problem"]) == (True, "")
    assert opens(client, KEY) == 200


def test_a_link_or_a_folder_in_its_place_is_not_followed(client: RouteClient, tmp_path: Path) -> None:
    path, elsewhere = settings.api_folder() / "settings.json", tmp_path / "elsewhere.json"
    path.parent.mkdir(parents=True)
    elsewhere.write_text(json.dumps({"key_sha256": settings.digest(KEY)}))
    path.symlink_to(elsewhere)
    state = told(client)
    assert not state["on"] and state["problem"]
    changed(client, max_images=20)
    assert not path.is_symlink() and "max_images" not in elsewhere.read_text()
    path.unlink()
    path.mkdir()
    answer = client.post("/api", {"key": KEY})
    refused(answer, 507)
    assert str(tmp_path).encode() not in answer.body
    assert not told(client)["on"]
