"""The OpenAPI document and the routes are about the same things."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from aiohttp import web
from ideogram4_lora_trainer import server
from ideogram4_lora_trainer.server.api import openapi
from ideogram4_lora_trainer.server.api.access import Guesses
from ideogram4_lora_trainer.server.fal.operations import operations as operations_of_fal
from ideogram4_lora_trainer.server.fal.trainer import TRAINER
from ideogram4_lora_trainer.server.ideogram.operations import operations as operations_of_ideogram
from route_client import PREFIX, served

KEY = "a-key-that-only-tests-have"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """As the server gives it, of one endpoint of fal's and all of Ideogram's."""
    operations = [*operations_of_fal([TRAINER]), *operations_of_ideogram()]
    with (
        pytest.MonkeyPatch.context() as patch,
        served(lambda to: openapi.add_routes(to, operations, Guesses())) as client,
    ):
        patch.setenv("IDEOGRAM4_API_KEY", KEY)
        texts = []
        for path in openapi.PATHS:
            assert _raw(client.address, path, {}) == (401, None)
            status, told = _raw(client.address, path, {"Api-Key": KEY})
            assert status == 200
            assert told["servers"] == [{"url": f"http://{client.address}"}]
            texts.append(json.dumps(told))
        assert len(set(texts)) == 1
        return json.loads(texts[0])


def _raw(address: str, path: str, headers: dict[str, str]) -> tuple[int, Any]:
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(f"http://{address}{path}", headers=headers, timeout=60)
    return answer.status_code, answer.json() if answer.ok else None


def test_every_route_is_described_and_every_description_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    described: list[openapi.Operation] = []
    add = openapi.add_routes
    monkeypatch.setattr(
        openapi,
        "add_routes",
        lambda to, all_of_them, guesses: described.extend(all_of_them) or add(to, all_of_them, guesses),
    )
    routes = web.RouteTableDef()
    server.register(routes, web.Application())
    served_here = {
        (route.method, route.path)
        for route in routes
        if isinstance(route, web.RouteDef) and not route.path.startswith(PREFIX) and route.method != "*"
    }
    assert served_here == {(one.method, one.path) for one in described} | {("GET", path) for path in openapi.PATHS}
    assert len(served_here) > 20
    assert all(path.startswith(("/fal/", "/ideogram/")) for _, path in served_here)


def test_no_two_operations_have_one_id(document: dict[str, Any]) -> None:
    ids = [one["operationId"] for methods in document["paths"].values() for one in methods.values()]
    assert len(ids) == len(set(ids))


def test_each_answer_can_be_told_from_the_others(document: dict[str, Any]) -> None:
    for methods in document["paths"].values():
        for operation in methods.values():
            assert {"401", "403", "429", "500"} < set(operation["responses"])
            assert "default" not in operation["responses"]
            assert ("413" in operation["responses"]) == ("requestBody" in operation)


def test_what_it_refers_to_is_there(document: dict[str, Any]) -> None:
    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [one for part in value.values() for one in references(part)]
        return [one for part in value for one in references(part)] if isinstance(value, list) else []

    found = references(document)
    assert found
    for reference in found:
        place = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


def test_what_the_models_say_is_in_it(document: dict[str, Any]) -> None:
    inputs = document["components"]["schemas"]["TrainerInput"]
    assert inputs["required"] == ["images_data_url"]
    steps = inputs["properties"]["steps"]
    assert (steps["minimum"], steps["maximum"], steps["default"]) == (100, 40_000, 1000)
