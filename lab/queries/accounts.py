"""Reading accounts and tokens."""

from django.db.models import QuerySet

from lab.models import Account, Token


def everybody() -> QuerySet[Account]:
    return Account.objects.order_by("-is_active", "username")


def tokens_of(account: Account) -> QuerySet[Token]:
    return account.tokens.select_related("account")


def token_for(account: Account, pk: int, role: str) -> Token | None:
    """A token that a caller of this role may revoke: its own, or anybody's for an administrator."""
    found = Token.objects.all() if role == "admin" else account.tokens.all()
    return found.filter(pk=pk).first()
