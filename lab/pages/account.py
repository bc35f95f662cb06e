"""Signing in and out, API tokens, and the people of the lab."""

from django.contrib import messages
from django.contrib.auth import login, logout
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import path
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_POST

from lab.errors import Conflict, Invalid
from lab.models import ROLES, Account, Token
from lab.services import accounts

ROLES_EXPLAINED = {
    "labeler": "sees only the labelling pages and ranks answers",
    "researcher": "starts and watches runs, and talks to models",
    "admin": "does all that, and lets people in",
}


@sensitive_variables("key")
def sign_in(request: HttpRequest) -> HttpResponse:
    """Without a key, the page that says how to get one. With one, a button: mail scanners follow links too."""
    key = request.POST.get("key") or request.GET.get("key", "")
    onward = request.POST.get("next") or request.GET.get("next", "")
    if not url_has_allowed_host_and_scheme(onward, allowed_hosts=None):
        onward = "/"
    if request.method == "POST":
        account = accounts.open_link(key)
        if account is None:
            context = {"error": "This link has been used, has expired, or was never made: ask for a new one."}
            return render(request, "account/sign_in.html", context, status=403)
        login(request, account, backend="django.contrib.auth.backends.ModelBackend")
        return redirect("/label" if account.role == "labeler" else onward)
    return render(request, "account/sign_in.html", {"key": key, "next": onward})


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return redirect("sign_in")


def settings(request: HttpRequest, **shown_once: str) -> HttpResponse:
    """`shown_once` holds what only this answer may show: a token's secret or a sign-in link."""
    account = request.user
    people = (
        Account.objects.order_by("-is_active", "is_simulated", "username") if account.may("admin") else None
    )
    context = {
        "section": "settings",
        "tokens": account.tokens.all(),
        "people": people,
        "roles": [(role, ROLES_EXPLAINED[role]) for role in ROLES],
        "token_roles": [role for role in ROLES if account.may(role)],
        **shown_once,
    }
    return render(request, "account/settings.html", context)


@require_POST
def make_token(request: HttpRequest) -> HttpResponse:
    try:
        token, secret = accounts.make_token(
            request.user, request.POST.get("name", "").strip(), request.POST.get("role")
        )
    except Invalid as error:
        messages.error(request, str(error))
        return redirect("settings")
    response = settings(request, secret=secret, secret_name=token.name)
    response["Cache-Control"] = "no-store"
    return response


@require_POST
def revoke_token(request: HttpRequest, id: int) -> HttpResponse:
    token = get_object_or_404(Token, pk=id, account=request.user)
    accounts.revoke_token(token)
    messages.info(request, f"The token “{token.name}” opens nothing any more.")
    return redirect("settings")


@require_POST
def add_person(request: HttpRequest) -> HttpResponse:
    if not request.user.may("admin"):
        return _for_admins(request)
    try:
        account = accounts.create(request.POST.get("name", "").strip(), request.POST.get("role", ""))
    except Invalid as error:
        messages.error(request, str(error))
        return redirect("settings")
    return _with_link(request, account)


@require_POST
def change_person(request: HttpRequest, id: int) -> HttpResponse:
    """Give an account another role, a new link, or shut it out: by the name of the button that was pressed."""
    if not request.user.may("admin"):
        return _for_admins(request)
    account = get_object_or_404(Account, pk=id)
    try:
        if "link" in request.POST:
            return _with_link(request, account)
        if "deactivate" in request.POST:
            accounts.deactivate(account)
            messages.info(request, f"{account} cannot sign in any more. What they did stays.")
        elif role := request.POST.get("role"):
            accounts.set_role(account, role)
            messages.info(request, f"{account} is {role} now.")
    except (Invalid, Conflict) as error:
        messages.error(request, str(error))
    return redirect("settings")


def _with_link(request: HttpRequest, account: Account) -> HttpResponse:
    link = request.build_absolute_uri(accounts.make_link(account))
    response = settings(request, link=link, link_name=account.username)
    response["Cache-Control"] = "no-store"
    return response


def _for_admins(request: HttpRequest) -> HttpResponse:
    context = {"title": "Only for administrators", "text": "Ask an administrator of this lab to do this.", "url": "/settings", "action": "To the settings"}  # fmt: skip
    return render(request, "errors/error.html", context, status=403)


urlpatterns = [
    path("sign-in", sign_in, name="sign_in"),
    path("sign-out", sign_out, name="sign_out"),
    path("settings", settings, name="settings"),
    path("settings/tokens", make_token, name="make_token"),
    path("settings/tokens/<int:id>/revoke", revoke_token, name="revoke_token"),
    path("settings/people", add_person, name="add_person"),
    path("settings/people/<int:id>", change_person, name="change_person"),
]
