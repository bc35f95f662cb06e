"""Signing in by a link that works once, API tokens that are shown once, and the people of the lab."""

import re

from lab.models import Account, Token
from lab.services import accounts


def key_of(link):
    return link.partition("key=")[2]


def test_a_link_signs_in_once_and_only_by_pressing_the_button(browser, account):
    ada = account("researcher", "ada")
    key = key_of(accounts.make_link(ada))
    stranger = browser(None)
    # A mail scanner that follows the link does not use it up.
    assert "Sign in to this lab" in stranger.get(f"/sign-in?key={key}").content.decode()
    answer = stranger.post("/sign-in", {"key": key})
    assert answer.status_code == 302 and answer["Location"] == "/"
    assert stranger.get("/runs").status_code == 200
    again = browser(None).post("/sign-in", {"key": key})
    assert again.status_code == 403 and "has been used" in again.content.decode()


def test_signing_in_leads_on_to_this_lab_and_nowhere_else(browser, account):
    ada = account("researcher", "ada")
    there = browser(None).post("/sign-in", {"key": key_of(accounts.make_link(ada)), "next": "/runs?q=sft"})
    assert there["Location"] == "/runs?q=sft"
    foreign = browser(None).post(
        "/sign-in", {"key": key_of(accounts.make_link(ada)), "next": "https://evil.example/"}
    )
    assert foreign["Location"] == "/"
    double = browser(None).post(
        "/sign-in", {"key": key_of(accounts.make_link(ada)), "next": "//evil.example/"}
    )
    assert double["Location"] == "/"


def test_a_labeler_lands_on_the_labelling_page(browser, account):
    link = accounts.make_link(account("labeler", "lea"))
    assert browser(None).post("/sign-in", {"key": key_of(link)})["Location"] == "/label"


def test_the_page_without_a_key_says_where_one_comes_from(browser, db):
    page = browser(None).get("/sign-in").content.decode()
    assert "make run" in page and "manage.py signin" in page


def test_signing_out_ends_the_session_and_takes_a_post(browser, db):
    client = browser("researcher")
    assert client.get("/sign-out").status_code == 405
    client.post("/sign-out")
    assert client.get("/runs").status_code == 302


def test_a_token_is_shown_once_and_works_until_it_is_revoked(browser, db):
    client = browser("researcher")
    page = client.post("/settings/tokens", {"name": "notebook", "role": "researcher"})
    secret = re.search(r'id="secret">([\w-]+)<', page.content.decode())[1]
    assert page["Cache-Control"] == "no-store"
    assert secret not in client.get("/settings").content.decode()
    program = browser(None)
    headers = {"HTTP_AUTHORIZATION": f"Bearer {secret}"}
    assert program.get("/api/v1/runs", **headers).status_code == 200
    client.post(f"/settings/tokens/{Token.objects.get().pk}/revoke")
    assert program.get("/api/v1/runs", **headers).status_code == 401


def test_a_token_cannot_reach_beyond_its_account(browser, db):
    client = browser("researcher")
    page = client.post("/settings/tokens", {"name": "x", "role": "admin"}, follow=True)
    assert "cannot have a token of the role admin" in page.content.decode()
    assert not Token.objects.exists()


def test_nobody_revokes_the_token_of_another(browser, account):
    token, _ = accounts.make_token(account("researcher", "ada"), "hers")
    assert browser("researcher", "bob").post(f"/settings/tokens/{token.pk}/revoke").status_code == 404
    assert Token.objects.filter(pk=token.pk).exists()


def test_an_administrator_adds_a_person_and_gets_their_link(browser, db):
    client = browser("admin")
    page = client.post("/settings/people", {"name": "lea", "role": "labeler"}).content.decode()
    key = re.search(r"sign-in\?key=([\w-]+)", page)[1]
    assert Account.objects.get(username="lea").role == "labeler"
    assert browser(None).post("/sign-in", {"key": key})["Location"] == "/label"
    taken = client.post("/settings/people", {"name": "lea", "role": "labeler"}, follow=True)
    assert "already" in taken.content.decode()


def test_only_an_administrator_sees_and_changes_people(browser, account):
    ada = account("labeler", "ada")
    client = browser("researcher")
    assert "New sign-in link" not in client.get("/settings").content.decode()
    assert client.post("/settings/people", {"name": "x", "role": "admin"}).status_code == 403
    assert client.post(f"/settings/people/{ada.pk}", {"role": "admin"}).status_code == 403
    assert Account.objects.get(pk=ada.pk).role == "labeler"


def test_the_last_administrator_stays(browser, account):
    client = browser("admin")
    boss = account("admin")
    page = client.post(f"/settings/people/{boss.pk}", {"deactivate": "1"}, follow=True)
    assert "last administrator" in page.content.decode()
    assert Account.objects.get(pk=boss.pk).is_active


def test_a_person_who_is_shut_out_cannot_come_back(browser, account):
    lea = account("researcher", "lea")
    session = browser("researcher", "lea")
    browser("admin").post(f"/settings/people/{lea.pk}", {"deactivate": "1"})
    assert session.get("/runs").status_code == 302
