"""The HTTP API turned on and off in ComfyUI's own settings. Skipped as test_workflows_in_browser.py is."""

from __future__ import annotations

import json
import uuid
from types import SimpleNamespace
from typing import Any

import browser
import pytest

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())

ROUTE = f"/fal/queue/ideogram/v4/requests/{uuid.uuid4()}/status"
VAE = "flux2_tiny_vae.safetensors"


@pytest.fixture(scope="module")
def used(comfy_server: SimpleNamespace) -> Any:
    return browser.run_script("api_settings.mjs", {"url": comfy_server.client.url, "route": ROUTE, "model": VAE})


def test_a_key_opens_the_routes_until_it_is_turned_off(used: Any) -> None:
    before, without, with_it, after = used["statuses"]
    assert (before, without, after) == (403, 401, 403)
    assert with_it == 404, "there is no such request, which only somebody with the key is told"
    assert used["errors"] == []


def test_the_key_is_long_and_can_be_copied(used: Any) -> None:
    assert len(used["key"]) == 43 and used["key"].replace("-", "").replace("_", "").isalnum(), "256 bits, base64url"
    assert used["key"] == used["focused"] == used["copied"]


def test_a_model_file_stays_chosen(used: Any) -> None:
    assert used["chosen"] == VAE


def test_the_key_is_shown_once_and_kept_nowhere(used: Any, comfy_server: SimpleNamespace) -> None:
    key = used["key"]
    assert key not in used["again"] + used["storage"] + used["graph"]
    assert key not in json.dumps(comfy_server.client.get("/api/settings"))
    kept = [path for path in (comfy_server.base / "user").rglob("*") if path.is_file()]
    assert any(path.name == "settings.json" and path.parent.name == "api" for path in kept)
    assert [path for path in (*kept, comfy_server.log) if key.encode() in path.read_bytes()] == []
