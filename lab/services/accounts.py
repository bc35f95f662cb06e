"""Accounts, API tokens and one-time sign-in links. The database keeps digests; a secret is shown once."""

from datetime import timedelta

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone

from lab.errors import Conflict, FieldError, Invalid
from lab.models import ROLES, Account, SignInLink, Token
from lab.models.account import digest, new_secret

LINK_LIFE = timedelta(days=3)
TOUCH_EVERY = timedelta(minutes=1)
"""`last_used` is written at most this often, so that reading with a token does not write at every request."""


def create(username: str, role: str, *, simulated: bool = False) -> Account:
    """A new account that can sign in by link only. Raises Invalid for a taken or an impossible name."""
    _check_role(role)
    account = Account(username=username, role=role, is_simulated=simulated)
    account.set_unusable_password()
    try:
        account.full_clean(validate_unique=False)
    except ValidationError as error:
        raise Invalid([FieldError("name", " ".join(error.messages))]) from error
    try:
        with transaction.atomic():
            account.save()
    except IntegrityError:
        raise Invalid(
            [FieldError("name", f"there is an account {username!r} already: choose another name")]
        ) from None
    return account


def simulated_labeler(username: str = "simulated") -> Account:
    """The account of a program that plays a labeler; made when it is missing."""
    found = Account.objects.filter(username=username, is_simulated=True).first()
    return found or create(username, "labeler", simulated=True)


def set_role(account: Account, role: str) -> Account:
    """Raises Conflict when the last administrator would be lost."""
    _check_role(role)
    if account.role == "admin" and role != "admin":
        _keep_an_administrator(account)
    account.role = role
    account.save(update_fields=["role"])
    return account


def deactivate(account: Account) -> None:
    """Shut an account out: its sessions, tokens and links are void. What it has done stays."""
    if account.role == "admin":
        _keep_an_administrator(account)
    with transaction.atomic():
        account.is_active = False
        account.save(update_fields=["is_active"])
        account.tokens.all().delete()
        SignInLink.objects.filter(account=account).delete()


def make_token(account: Account, name: str = "", role: str | None = None) -> tuple[Token, str]:
    """A token and its secret, which nobody can read again. Raises Invalid for a role beyond the account's."""
    role = role or account.role
    _check_role(role)
    if not account.may(role):
        raise Invalid(
            [FieldError("role", f"{account} is a {account.role} and cannot have a token of the role {role}")]
        )
    if len(name) > 100:
        raise Invalid([FieldError("name", f"the name has {len(name)} characters: use at most 100")])
    secret = new_secret()
    return Token.objects.create(account=account, name=name or role, role=role, digest=digest(secret)), secret


def verify_token(secret: str) -> Token | None:
    """The token of a secret, or None when there is none or its account is shut out."""
    token = Token.objects.select_related("account").filter(digest=digest(secret)).first()
    if token is None or not token.account.is_active:
        return None
    now = timezone.now()
    if token.last_used is None or now - token.last_used > TOUCH_EVERY:
        Token.objects.filter(pk=token.pk).update(last_used=now)
    return token


def reach(token: Token) -> str:
    """What a token may do: its role, or its account's where that has become less."""
    return min(token.role, token.account.role, key=ROLES.index)


def revoke_token(token: Token) -> None:
    token.delete()


def make_link(account: Account) -> str:
    """The address, below the lab's own, that signs the account in once within LINK_LIFE."""
    secret = new_secret()
    SignInLink.objects.create(account=account, digest=digest(secret), expires=timezone.now() + LINK_LIFE)
    return f"/sign-in?key={secret}"


def open_link(secret: str) -> Account | None:
    """Use a link up. None when it is unknown, expired or used, or its account is shut out."""
    now = timezone.now()
    unused = SignInLink.objects.filter(
        digest=digest(secret), used=None, expires__gt=now, account__is_active=True
    )
    link = unused.select_related("account").first()
    # The filtered update lets one of two simultaneous visitors in.
    if link is None or not unused.filter(pk=link.pk).update(used=now):
        return None
    return link.account


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise Invalid([FieldError("role", f"there is no role {role!r}: choose one of {', '.join(ROLES)}")])


def _keep_an_administrator(account: Account) -> None:
    if not Account.objects.filter(role="admin", is_active=True).exclude(pk=account.pk).exists():
        raise Conflict(f"{account} is the last administrator: make another one first")
