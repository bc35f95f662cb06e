"""Who may call an operation: closed to labelers unless it says otherwise.

`lab.security.signed_in` has already found out who asks, by token or by session; here only the role is weighed.
"""

from typing import Any

from django.http import HttpRequest
from ninja.security import HttpBearer

from lab.errors import NotAllowed
from lab.models import ROLES


class BearerToken(HttpBearer):
    def __init__(self, role: str) -> None:
        super().__init__()
        self.role = role

    def __call__(self, request: Any) -> Any:
        if request.role is None:
            return None
        if ROLES.index(request.role) < ROLES.index(self.role):
            raise NotAllowed(f"This needs the role {self.role}, and you are a {request.role}.")
        return request.user

    def authenticate(self, request: HttpRequest, token: str) -> Any:
        raise AssertionError("signed_in does this")


labeler, researcher, admin = (BearerToken(role) for role in ROLES)
