"""What has hit others: every address as nobody and as a labeler, hostile ids, hostile bodies."""

import json
import re

import pytest
from django.urls import URLPattern, URLResolver, get_resolver

from lab.services import labeling
from tests.lab import making

pytestmark = pytest.mark.django_db
OPEN = {"/sign-in", "/api/v1/health", "/favicon.ico"}
FOR_LABELERS = re.compile(
    r"/(label|sign-out|sign-in|favicon\.ico|static|api/v1/(health|me|labeling|arena/battles))(/.*)?|/arena"
)
HOSTILE = [
    "../../etc/passwd", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "%252e%252e%252fetc", "..%5c..%5cwindows", "a%00b", "%00",
    "9" * 40, "-1", "1e9", "NaN", "1;DROP TABLE lab_run", "' OR 1=1 --", "<img onerror=alert(1)>", "\u202e", "%ff%fe",
    "{{7*7}}", "${7*7}",
]  # fmt: skip


def addresses(patterns=None, prefix: str = "") -> list[str]:
    """Every address of the lab, with 1 for each of its arguments."""
    found = []
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            found += addresses(pattern.url_patterns, route)
        elif isinstance(pattern, URLPattern) and "^" not in route:
            found.append("/" + re.sub(r"<[^>]+>", "1", route))
    return sorted(set(found))


def test_there_are_addresses_to_walk():
    assert len([address for address in addresses() if address.startswith("/api/v1/")]) > 40
    assert "/api/v1/runs/1/events" in addresses()


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete", "options", "head"])
def test_nobody_gets_in_anywhere(client, method):
    for address in addresses():
        if address in OPEN:
            continue
        answer = getattr(client, method)(address)
        if address.startswith(("/api/", "/v1/")):
            expected = (302,) if address == "/api/v1/docs" else (401,)
        else:
            expected = (302,)
        assert answer.status_code in expected, (method, address, answer.status_code)
        if answer.status_code == 302:
            assert answer["Location"].startswith("/sign-in")


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete"])
def test_a_labeler_gets_nowhere_but_to_labelling(browser, api, method):
    person, program = browser("labeler"), api("labeler")
    for address in addresses():
        if FOR_LABELERS.fullmatch(address) or address == "/":
            continue
        if address.startswith(("/api/", "/v1/")):
            assert getattr(program._client, method)(address, headers=program._headers).status_code == 403, (
                address
            )
        # A form's own type, without an origin, is what an old browser would send for a foreign page.
        assert getattr(person, method)(address).status_code == 403, (method, address)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_ids_find_nothing_and_break_nothing(api, hostile, tmp_home):
    program = api("admin")
    for address in addresses():
        if not address.startswith("/api/v1/") or "/1" not in address:
            continue
        path = address.replace("/1", f"/{hostile}")
        for answer in (program.get(path), program.post(path, {}), program.delete(path)):
            assert answer.status_code in (400, 404, 405, 409, 422), (path, answer.status_code)
            assert "Traceback" not in answer.content.decode()
            assert "root:" not in answer.content.decode()


@pytest.mark.parametrize(
    "query",
    ["q=%00", "limit=99999999999999999999", "offset=-1", "q='%20OR%201=1", "limit=1e3", "limit=", "q=%ff", "created_by__password=x", "ordering=-created_by__password"],
)  # fmt: skip
def test_hostile_queries_never_break_a_list(api, query, tmp_home):
    making.run()
    for path in (
        "runs",
        "datasets",
        "tokenizers",
        "checkpoints",
        "artifacts",
        "tours",
        "tokens",
        "accounts",
        "labeling/projects",
        "arena/contenders",
        "arena/battles",
    ):
        answer = api("admin").get(f"/api/v1/{path}?{query}")
        assert answer.status_code in (200, 400, 422), (path, query)
        assert "detail" in answer.json() or "items" in answer.json()


@pytest.mark.parametrize(
    "body",
    [
        "", "{", "null", "5", "[]", '"x"', '{"kind": "\\u0000"}', '{"kind": "\\ud800"}', '{"kind": NaN}',
        '{"kind": 1e999}', "[" * 100_000, '{"kind": ' + "9" * 5000 + "}", '{"a":' * 5000, b"\xff\xfe", '{"kind": "crawl", "config": {"seed": 99999999999999999999999}}',
        '{"kind": "crawl", "config": {"x": {"y": "\\u0000"}}}', '{"kind": ["crawl"]}', '{"name": {"$gt": ""}}',
    ],
)  # fmt: skip
def test_hostile_bodies_are_told_and_break_nothing(api, body, tmp_home):
    for path in (
        "runs",
        "runs/estimate",
        "datasets",
        "labeling/projects",
        "arena/battles",
        "tokens",
        "accounts",
    ):
        answer = api("admin").post(f"/api/v1/{path}", data=body, content_type="application/json")
        assert answer.status_code in (400, 422) or (path == "tokens" and answer.status_code == 201), (
            path,
            body[:40],
        )
        assert set(answer.json()) >= {"detail", "errors"} or answer.status_code == 201
        assert "Traceback" not in answer.content.decode()


def test_a_failure_of_ours_shows_no_trace(api, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr("lab.api.runs.queries.recent", broken)
    answer = api().get("/api/v1/runs")
    assert answer.status_code == 500
    assert "secret" not in answer.content.decode()
    assert answer.json()["errors"] == []


def test_what_people_write_comes_back_as_data(api, tmp_home):
    """JSON with nosniff: no browser takes it for a page, whatever stands in it."""
    name = "<img src=x onerror=alert(1)>"
    run = making.run(name=name)
    answer = api().get(f"/api/v1/runs/{run.pk}")
    assert answer.json()["name"] == name
    assert answer["Content-Type"].startswith("application/json")
    assert answer["X-Content-Type-Options"] == "nosniff"
    source = making.dataset("rollouts", [{"prompt": name, "completions": [name, "x"]}])
    project = labeling.create_project(name, source, name)
    task = api("labeler").post(f"/api/v1/labeling/projects/{project.pk}/next")
    assert name in json.dumps(task.json())
    assert task["X-Content-Type-Options"] == "nosniff"
