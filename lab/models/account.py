"""People and programs: accounts with a role, their API tokens, and one-time sign-in links."""

import hashlib
import secrets

from django.contrib.auth.models import AbstractUser
from django.db import models

ROLES = ("labeler", "researcher", "admin")
"""From the least to the most; a role may do all that those before it may."""


def digest(secret: str) -> str:
    """What the database keeps of a random secret: enough to recognize it, not enough to use it."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Account(AbstractUser):
    role = models.CharField(max_length=12, choices=[(role, role) for role in ROLES], default="labeler")
    is_simulated = models.BooleanField(default=False)
    """A program that plays a labeler; marked wherever its judgements appear."""

    def may(self, role: str) -> bool:
        return self.is_active and ROLES.index(self.role) >= ROLES.index(role)


class Token(models.Model):
    """A bearer token; its role is at most its account's."""

    account = models.ForeignKey(Account, models.CASCADE, related_name="tokens")
    name = models.CharField(max_length=100)
    role = models.CharField(max_length=12, choices=[(role, role) for role in ROLES])
    digest = models.CharField(max_length=64, unique=True)
    created = models.DateTimeField(auto_now_add=True)
    last_used = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created"]

    def __str__(self) -> str:
        return self.name


class SignInLink(models.Model):
    """Signs one person in, once, before it expires."""

    account = models.ForeignKey(Account, models.CASCADE)
    digest = models.CharField(max_length=64, unique=True)
    expires = models.DateTimeField()
    used = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"sign-in link of {self.account}"


def new_secret() -> str:
    return secrets.token_urlsafe(32)
