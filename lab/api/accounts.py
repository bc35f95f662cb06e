"""Accounts and API tokens."""

from datetime import datetime
from typing import Any, Literal

from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Router, Schema, Status
from pydantic import Field

from lab.api.auth import admin
from lab.api.base import Given, Limit, Number, Offset, Page, answers, page
from lab.api.idempotent import secret
from lab.errors import NotAllowed
from lab.models import ROLES, Account
from lab.queries import accounts as queries
from lab.services import accounts as services

tokens = Router(tags=["accounts"])
accounts = Router(tags=["accounts"], auth=admin)
Role = Literal[ROLES]  # type: ignore[valid-type]


class TokenIn(Given):
    name: str = Field("", max_length=100)
    role: Role | None = Field(None, description="At most that of the caller, which is the default.")


class ApiTokenOut(Schema):
    id: int
    name: str
    role: str
    created: datetime
    last_used: datetime | None


class FreshTokenOut(ApiTokenOut):
    token: str = Field(description="Shown once.")


class AccountIn(Given):
    name: str = Field(min_length=1, max_length=150)
    role: Role = "labeler"


class AccountChange(Given):
    role: Role


class AccountOut(Schema):
    id: int
    name: str = Field(alias="username")
    role: str
    simulated: bool = Field(alias="is_simulated")
    active: bool = Field(alias="is_active")
    created: datetime = Field(alias="date_joined")


class LinkOut(Schema):
    sign_in: str = Field(description="Signs the person in once, within three days.")


class InvitedOut(AccountOut, LinkOut):
    pass


@tokens.get("", response=answers(Page[ApiTokenOut]))
def list_tokens(request: Any, limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
    """Your own tokens; none of them shows its secret."""
    return page(queries.tokens_of(request.user), limit, offset)


@tokens.post("", response=answers(FreshTokenOut, 201))
@secret
def create_token(request: Any, data: TokenIn) -> Status:
    """A fresh token of your own."""
    role = data.role or request.role
    if ROLES.index(role) > ROLES.index(request.role):
        raise NotAllowed(f"a token of the role {request.role} makes none of the role {role}")
    token, fresh = services.make_token(request.user, data.name, role)
    fields = ("name", "role", "created", "last_used")
    return Status(201, {name: getattr(token, name) for name in fields} | {"id": token.pk, "token": fresh})


@tokens.delete("/{id}", response=answers(None, 204))
def revoke_token(request: Any, id: Number) -> Status:
    """Your own, or for an administrator anybody's."""
    token = queries.token_for(request.user, id, request.role)
    if token is None:
        raise Http404
    services.revoke_token(token)
    return Status(204, None)


@accounts.get("", response=answers(Page[AccountOut]), by_alias=False)
def list_accounts(request: HttpRequest, limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
    return page(queries.everybody(), limit, offset)


@accounts.post("", response=answers(InvitedOut, 201), by_alias=False)
@secret
def create_account(request: HttpRequest, data: AccountIn) -> Status:
    """A new account and the link by which its person signs in once."""
    account = services.create(data.name, data.role)
    account.sign_in = request.build_absolute_uri(services.make_link(account))  # type: ignore[attr-defined]
    return Status(201, account)


@accounts.patch("/{id}", response=answers(AccountOut), by_alias=False)
def change_role(request: HttpRequest, id: Number, data: AccountChange) -> Account:
    return services.set_role(get_object_or_404(Account, pk=id), data.role)


@accounts.post("/{id}/link", response=answers(LinkOut, 201))
@secret
def create_link(request: HttpRequest, id: Number) -> Status:
    """A fresh sign-in link for somebody who has lost theirs."""
    account = get_object_or_404(Account, pk=id, is_active=True)
    return Status(201, {"sign_in": request.build_absolute_uri(services.make_link(account))})


@accounts.delete("/{id}", response=answers(None, 204))
def shut_out(request: HttpRequest, id: Number) -> Status:
    """End an account's sessions, tokens and links; what it has done stays."""
    services.deactivate(get_object_or_404(Account, pk=id))
    return Status(204, None)
