"""Health, recipes, the documentation, and what an unknown address answers."""

import re

import pytest

from core_ml import recipes

pytestmark = pytest.mark.django_db


def test_health_needs_no_token_and_tells_what_answers(client):
    answer = client.get("/api/v1/health")
    assert answer.status_code == 200
    assert answer.json()["database"] == "ok"
    assert set(answer.json()) == {"status", "database", "redis", "workers", "engine"}


def test_recipes_come_in_the_order_of_the_life_with_their_schema(api):
    answer = api().get("/api/v1/recipes").json()
    assert [recipe["kind"] for recipe in answer["items"]] == list(recipes.all_recipes())
    assert answer["count"] == len(answer["items"])
    pretrain = api().get("/api/v1/recipes/pretrain").json()
    assert pretrain["inputs"]["documents"]["accepts"] == ["documents"]
    assert pretrain["outputs"]["checkpoint"]["what"] == "base"
    assert pretrain["config_schema"]["properties"]["steps"]["description"]


def test_an_unknown_recipe_is_404_and_strangers_get_401(api):
    assert api().get("/api/v1/recipes/nothing").status_code == 404
    assert api(None).get("/api/v1/recipes").status_code == 401
    assert api("labeler").get("/api/v1/recipes").status_code == 403


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/api/v1/runs/", "/api/v2/runs", "/v1/nothing"])
def test_an_unknown_address_is_told_as_json(api, path):
    answer = api().get(path)
    assert answer.status_code == 404
    assert "detail" in answer.json() or "error" in answer.json()


def test_a_wrong_method_is_told_as_json_with_those_that_are_right(api):
    answer = api()._call("put", "/api/v1/runs", {})
    assert answer.status_code == 405
    assert answer.json() == {"detail": "Method Not Allowed", "errors": []}
    assert set(answer["Allow"].split(", ")) == {"GET", "POST"}


def test_the_documentation_loads_nothing_from_elsewhere(browser):
    page = browser("researcher").get("/api/v1/docs")
    assert page.status_code == 200
    html = page.content.decode()
    addresses = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert addresses
    assert all(address.startswith("/") and not address.startswith("//") for address in addresses)
    # Every script is a file of ours: the policy allows no inline one, but for data that is not run.
    inline = re.findall(r"<script(?![^>]*src=)([^>]*)>", html)
    assert all("application/json" in attributes for attributes in inline)
    assert "http://" not in html and "https://" not in html


def test_the_documentation_is_for_those_who_are_signed_in(client, api):
    assert client.get("/api/v1/docs")["Location"].startswith("/sign-in")
    assert client.get("/api/v1/openapi.json").status_code == 401
    assert api().get("/api/v1/openapi.json").json()["info"]["title"] == "Move 37"


def test_no_two_schemas_share_a_name_and_every_operation_says_what_it_does(api):
    described = api().get("/api/v1/openapi.json").json()
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert "422" in operation["responses"] or path.endswith("/health"), (method, path)
