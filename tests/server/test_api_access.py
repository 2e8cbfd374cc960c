"""Who gets through to the HTTP API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pydantic
import pytest
from aiohttp import web
from ideogram4_lora_trainer.server.api import access
from ideogram4_lora_trainer.server.api.access import Guesses, keyed
from ideogram4_lora_trainer.server.api.settings import ApiSettings, digest
from ideogram4_lora_trainer.server.guard import Refusal
from ideogram4_lora_trainer.trainer_core.errors import SettingsError
from route_client import PREFIX, RouteClient, served

KEY = "sixteen-letters-"
OTHER = "another-sixteen-"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RouteClient]:
    monkeypatch.setattr(access.ApiSettings, "load", staticmethod(lambda: settings(tmp_path)))
    monkeypatch.delenv("IDEOGRAM4_API_KEY", raising=False)
    monkeypatch.setattr(access, "without_paths", lambda text: text)
    guesses = Guesses()

    def add(routes: web.RouteTableDef) -> None:
        async def good(_: web.Request) -> web.Response:
            return web.json_response({"good": True})

        async def fails(_: web.Request) -> web.Response:
            raise ZeroDivisionError("/secret/path")

        async def complains(_: web.Request) -> web.Response:
            raise SettingsError("Choose another value.")

        for name, handler in {"good": good, "fails": fails, "complains": complains}.items():
            routes.get(f"{PREFIX}/{name}")(keyed(handler, guesses))

    with served(add) as client:
        yield client


def settings(folder: Path) -> ApiSettings:
    file = folder / "key"
    return ApiSettings(key_sha256=digest(file.read_text()) if file.exists() else "")


def set_key(folder: Path) -> None:
    (folder / "key").write_text(KEY)


def told(client: RouteClient, path: str = "/good", **headers: str) -> tuple[int, str]:
    answer = client.get(path, **headers)
    return answer.status, answer.json.get("error_type", "")


def test_it_is_off_until_a_key_is_set(api: RouteClient, tmp_path: Path) -> None:
    assert told(api, Authorization=f"Key {KEY}") == (403, "api_off")
    set_key(tmp_path)
    assert told(api, Authorization=f"Key {KEY}") == (200, "")


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": f"{scheme} {KEY}"} for scheme in ("Key", "key", "Bearer", "bearer")] + [{"Api_Key": KEY}],
    ids=str,
)
def test_the_key_is_taken_in_every_spelling(api: RouteClient, tmp_path: Path, headers: dict[str, str]) -> None:
    set_key(tmp_path)
    assert told(api, **headers) == (200, "")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": KEY},
        {"Authorization": "Key"},
        {"Authorization": "Key "},
        {"Authorization": f"Basic {KEY}"},
    ],
    ids=str,
)
def test_without_a_key_nothing_is_counted(api: RouteClient, tmp_path: Path, headers: dict[str, str]) -> None:
    set_key(tmp_path)
    for _ in range(2 * access.MAX_WRONG_KEYS):
        assert told(api, **headers) == (401, "no_key")
    assert told(api, Api_Key=KEY) == (200, "")


def test_too_many_wrong_keys_shut_the_door_for_a_while(
    api: RouteClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_key(tmp_path)
    for number in range(access.MAX_WRONG_KEYS):
        assert told(api, Authorization=f"Key {OTHER}{number}") == (401, "wrong_key")
    assert told(api, Authorization=f"Key {KEY}") == (429, "too_many_wrong_keys"), "else it would tell which is right"
    assert api.get("/good", Api_Key=KEY).headers["Retry-After"] == "60"
    later = access.time.monotonic() + access.WRONG_KEYS_WINDOW_S + 1
    monkeypatch.setattr(access.time, "monotonic", lambda: later)
    assert told(api, Authorization=f"Key {KEY}") == (200, "")


def test_the_environment_counts_before_the_page(
    api: RouteClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_key(tmp_path)
    monkeypatch.setenv("IDEOGRAM4_API_KEY", f" {OTHER} ")
    assert told(api, Api_Key=OTHER) == (200, "")
    assert told(api, Api_Key=KEY) == (401, "wrong_key")
    monkeypatch.setenv("IDEOGRAM4_API_KEY", "short")
    assert told(api, Api_Key="short") == (403, "api_off")
    assert "shorter than 16" in api.get("/good").json["detail"]


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.test"}, {"Sec_Fetch_Site": "cross-site"}, {"Origin": "null"}], ids=str
)
def test_pages_of_other_sites_are_refused_with_the_key_too(
    api: RouteClient, tmp_path: Path, headers: dict[str, str]
) -> None:
    set_key(tmp_path)
    assert told(api, Api_Key=KEY, **headers) == (403, "cross_origin")


def test_a_defect_shows_nothing(api: RouteClient, tmp_path: Path) -> None:
    set_key(tmp_path)
    answer = api.get("/fails", Api_Key=KEY)
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert told(api, "/complains", Api_Key=KEY) == (400, "settings_rejected")


def test_one_network_of_ipv6_is_one_guesser() -> None:
    guesses = Guesses()
    for number in range(access.MAX_WRONG_KEYS):
        guesses.count(f"2001:db8:1:2::{number:x}")
    with pytest.raises(Refusal):
        guesses.refuse("2001:db8:1:2:ffff::1")
    guesses.refuse("2001:db8:1:3::1")
    guesses.refuse("10.0.0.1")


def test_behind_a_proxy_of_this_machine_callers_are_told_apart(api: RouteClient, tmp_path: Path) -> None:
    set_key(tmp_path)
    for _ in range(access.MAX_WRONG_KEYS):
        told(api, Api_Key=OTHER, X_Forwarded_For="10.9.9.9, 203.0.113.7")
    assert told(api, Api_Key=KEY, X_Forwarded_For="203.0.113.7") == (429, "too_many_wrong_keys")
    assert told(api, Api_Key=KEY, X_Forwarded_For="203.0.113.7, 203.0.113.8") == (200, "")
    assert told(api, Api_Key=KEY, X_Forwarded_For="no address") == (200, "")
    assert told(api, Api_Key=KEY) == (200, "")


def test_whoever_guesses_last_is_forgotten_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "MAX_ADDRESSES", 2)
    guesses = Guesses()
    for address in ("10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.3"):
        guesses.count(address)
    assert list(guesses._times) == ["10.0.0.1", "10.0.0.3"]


def test_few_errors_are_told_of_many() -> None:
    class Form(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")

    with pytest.raises(pydantic.ValidationError) as caught:
        Form.model_validate({f"{number}" * 1000: 1 for number in range(500)})
    errors = access.Invalid.of(caught.value).errors
    assert len(errors) == access.MAX_ERRORS
    assert all(len(error["loc"][1]) <= access.MAX_LOC_LENGTH for error in errors)


def test_addresses_are_forgotten_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "MAX_ADDRESSES", 5)
    guesses = Guesses()
    for number in range(20):
        guesses.count(f"10.0.0.{number}")
    assert len(guesses._times) == 5


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"key_sha256": "\\u00fc", "models": [], "max_images": -1}', "[" * 9999]
)
def test_damaged_settings_count_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "settings.json").write_text(content)
    assert ApiSettings.load(tmp_path) == ApiSettings()


def test_settings_come_back_as_they_were(tmp_path: Path) -> None:
    kept = ApiSettings(key_sha256=digest(KEY), models={"vae": "my.safetensors"}, max_images=500)
    kept.save(tmp_path)
    assert ApiSettings.load(tmp_path) == kept
    assert (tmp_path / "settings.json").stat().st_mode & 0o077 == 0
