"""Tokens, accounts, sign-in links, and the command that prints a token."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from lab.errors import Conflict, Invalid
from lab.models import Account, SignInLink, Token
from lab.services import accounts

pytestmark = pytest.mark.django_db


def test_me_tells_name_and_role(api):
    assert api("labeler", "lea").get("/api/v1/me").json() | {"id": 0} == {
        "id": 0,
        "name": "lea",
        "role": "labeler",
        "simulated": False,
    }


def test_a_fresh_token_is_shown_once_and_works(api, client):
    answer = api("researcher").post("/api/v1/tokens", {"name": "laptop"})
    assert answer.status_code == 201
    secret = answer.json()["token"]
    assert (
        client.get("/api/v1/me", headers={"Authorization": f"Bearer {secret}"}).json()["role"] == "researcher"
    )
    listed = api("researcher").get("/api/v1/tokens")
    assert secret not in listed.content.decode()
    assert "laptop" in [token["name"] for token in listed.json()["items"]]
    assert not Token.objects.filter(digest=secret).exists()


def test_nobody_makes_a_token_beyond_their_reach(api, account, client):
    assert api("researcher").post("/api/v1/tokens", {"role": "admin"}).status_code == 403
    # Also not an administrator who came with a token of less.
    _, secret = accounts.make_token(account("admin"), role="researcher")
    headers = {"Authorization": f"Bearer {secret}"}
    body = {"data": '{"role": "admin"}', "content_type": "application/json"}
    assert client.post("/api/v1/tokens", headers=headers, **body).status_code == 403


def test_one_revokes_ones_own_tokens_and_an_administrator_anybodys(api, account):
    token, _ = accounts.make_token(account("researcher", "rita"))
    assert api("researcher", "rob").delete(f"/api/v1/tokens/{token.pk}").status_code == 404
    assert api("admin").delete(f"/api/v1/tokens/{token.pk}").status_code == 204
    assert not Token.objects.filter(pk=token.pk).exists()


def test_an_administrator_invites_a_labeler_by_a_link_that_works_once(api):
    answer = api("admin").post("/api/v1/accounts", {"name": "lea", "role": "labeler"})
    assert answer.status_code == 201
    secret = answer.json()["sign_in"].partition("key=")[2]
    assert accounts.open_link(secret) == Account.objects.get(username="lea")
    assert accounts.open_link(secret) is None


def test_an_expired_link_and_one_of_a_shut_out_account_let_nobody_in(account):
    late, shut = account("labeler", "late"), account("labeler", "shut")
    keys = [accounts.make_link(person).partition("key=")[2] for person in (late, shut)]
    SignInLink.objects.filter(account=late).update(expires=timezone.now() - timedelta(seconds=1))
    Account.objects.filter(pk=shut.pk).update(is_active=False)
    assert [accounts.open_link(key) for key in keys] == [None, None]


@pytest.mark.parametrize(
    "body", [{}, {"name": ""}, {"name": "a b"}, {"name": "x", "role": "king"}, {"name": "x", "y": 1}]
)
def test_a_bad_account_is_told_by_field(api, body):
    answer = api("admin").post("/api/v1/accounts", body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] in ("name", "role", "y")


def test_a_taken_name_is_told(api, account):
    account("labeler", "lea")
    answer = api("admin").post("/api/v1/accounts", {"name": "lea"})
    assert answer.status_code == 422
    assert "already" in answer.json()["detail"]


def test_accounts_are_for_administrators(api, account):
    other = account("labeler", "lea")
    for role in ("researcher", "labeler"):
        assert api(role).get("/api/v1/accounts").status_code == 403
        assert api(role).post(f"/api/v1/accounts/{other.pk}/link").status_code == 403
        assert api(role).patch(f"/api/v1/accounts/{other.pk}", {"role": "admin"}).status_code == 403


def test_the_last_administrator_stays(api, account):
    admin = account("admin")
    assert api("admin").delete(f"/api/v1/accounts/{admin.pk}").status_code == 409
    assert api("admin").patch(f"/api/v1/accounts/{admin.pk}", {"role": "labeler"}).status_code == 409
    account("admin", "second")
    assert api("admin").delete(f"/api/v1/accounts/{admin.pk}").status_code == 204
    with pytest.raises(Conflict):
        accounts.deactivate(Account.objects.get(username="second"))


def test_a_role_is_changed_and_an_account_shut_out(api, account):
    lea = account("labeler", "lea")
    assert (
        api("admin").patch(f"/api/v1/accounts/{lea.pk}", {"role": "researcher"}).json()["role"]
        == "researcher"
    )
    assert api("admin").post(f"/api/v1/accounts/{lea.pk}/link").status_code == 201
    assert api("admin").delete(f"/api/v1/accounts/{lea.pk}").status_code == 204
    assert api("admin").post(f"/api/v1/accounts/{lea.pk}/link").status_code == 404


def _token(*arguments):
    out, err = StringIO(), StringIO()
    call_command("token", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_the_command_prints_a_token_and_nothing_else():
    out, err = _token("ada", "--role", "researcher")
    assert out.count("\n") == 1
    assert accounts.verify_token(out.strip()).role == "researcher"
    assert not err


def test_the_command_raises_an_account_that_is_too_low_and_says_so():
    _token("ada", "--role", "labeler")
    out, err = _token("ada", "--role", "admin")
    assert accounts.verify_token(out.strip()).role == "admin"
    assert "was a labeler" in err


def test_the_command_refuses_an_impossible_name():
    with pytest.raises(CommandError):
        _token("a b", "--role", "labeler")
    with pytest.raises(Invalid):
        accounts.create("x", "king")
