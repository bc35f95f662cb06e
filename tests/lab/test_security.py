"""The three middlewares: headers, writes from other sites, and who may come in."""

import json

import pytest
from django.test import AsyncClient, Client

from lab.asgi import bounded
from lab.services import accounts

pytestmark = pytest.mark.django_db
JSON = {"content_type": "application/json"}


def test_a_foreign_host_name_gets_400(api):
    for path in ("/api/v1/health", "/sign-in", "/"):
        assert Client().get(path, headers={"Host": "evil.example"}).status_code == 400


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://testserver.evil.example", "http://[bad"]
)
def test_a_write_from_a_foreign_or_null_origin_gets_403(api, browser, origin):
    headers = {"Origin": origin}
    assert api("admin").post("/api/v1/tokens", {}, headers=headers).status_code == 403
    assert browser("admin").post("/api/v1/tokens", "{}", headers=headers, **JSON).status_code == 403
    assert Client().post("/sign-in", headers=headers).status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_write_that_the_browser_calls_foreign_gets_403(browser, site):
    answer = browser("admin").post("/api/v1/tokens", "{}", headers={"Sec-Fetch-Site": site}, **JSON)
    assert answer.status_code == 403


def test_our_own_page_may_write_with_its_session(browser):
    headers = {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}
    assert browser("researcher").post("/api/v1/tokens", "{}", headers=headers, **JSON).status_code == 201


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_a_session_cannot_write_by_what_a_foreign_form_can_send(browser, kind):
    """A browser sends these three kinds across sites without asking; an old one names no origin either."""
    assert browser("researcher").post("/api/v1/tokens", "{}", content_type=kind).status_code == 403


def test_reading_needs_no_proof_of_origin(browser):
    assert (
        browser("researcher").get("/api/v1/runs", headers={"Origin": "https://evil.example"}).status_code
        == 200
    )


def test_a_wrong_token_is_refused_even_beside_a_good_session(browser):
    answer = browser("admin").get("/api/v1/runs", headers={"Authorization": "Bearer wrong"})
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == "Bearer"


def test_a_token_opens_no_page(api):
    answer = api("admin").get("/")
    assert answer.status_code == 302
    assert answer["Location"] == "/sign-in"


def test_a_revoked_token_and_one_of_a_shut_out_account_open_nothing(account, client):
    token, secret = accounts.make_token(account("researcher"))
    _, other_secret = accounts.make_token(account("labeler"))
    accounts.revoke_token(token)
    accounts.deactivate(account("labeler"))
    for dead in (secret, other_secret):
        assert client.get("/api/v1/me", headers={"Authorization": f"Bearer {dead}"}).status_code == 401


def test_a_token_reaches_no_further_than_its_account_does_now(account, client):
    account("admin")
    _, secret = accounts.make_token(account("researcher"))
    accounts.set_role(account("researcher"), "labeler")
    headers = {"Authorization": f"Bearer {secret}"}
    assert client.get("/api/v1/me", headers=headers).json()["role"] == "labeler"
    assert client.get("/api/v1/runs", headers=headers).status_code == 403


def test_a_labeler_sees_only_the_labelling_pages(browser):
    labeler = browser("labeler")
    assert labeler.get("/")["Location"] == "/label"
    for path in ("/runs", "/labeling", "/settings", "/datasets", "/nothing"):
        assert labeler.get(path).status_code == 403
    assert labeler.post("/runs/1/cancel").status_code == 403


def test_htmx_is_told_to_leave_the_page_when_nobody_is_signed_in(client):
    answer = client.get("/runs", headers={"HX-Request": "true"})
    assert answer.status_code == 401
    assert answer["HX-Redirect"] == "/sign-in"


def test_every_answer_carries_the_policy(client):
    policy = client.get("/api/v1/health")["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert client.get("/sign-in")["X-Content-Type-Options"] == "nosniff"


async def test_the_chain_works_under_asgi_too():
    client = AsyncClient()
    assert (await client.get("/api/v1/runs")).status_code == 401
    assert (await client.get("/api/v1/nothing", headers={"Host": "evil.example"})).status_code == 400
    assert (await client.post("/api/v1/tokens", headers={"Origin": "null"})).status_code == 403


async def test_a_body_beyond_the_limit_gets_413_before_anybody_reads_it(settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 10
    sent, called = [], []

    async def application(scope, receive, send):
        called.append(await receive())

    async def receive():
        return {"type": "http.request", "body": b"x" * 11, "more_body": True}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/api/v1/runs", "headers": [(b"content-length", b"11")]}
    await bounded(application)(scope, receive, send)
    assert sent[0]["status"] == 413
    assert json.loads(sent[1]["body"])["errors"] == []
    assert not called
    # Without a declared length the body is counted as it comes.
    await bounded(application)({**scope, "headers": []}, receive, send)
    assert called == [{"type": "http.disconnect"}]
    assert [message.get("status") for message in sent] == [413, None, 413, None]
