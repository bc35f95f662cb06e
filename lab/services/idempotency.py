"""Doing a POST once: the answer is kept under the caller's key, and a repeated request gets it again."""

from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from lab.errors import Conflict
from lab.models import Account, IdempotencyKey

KEPT = timedelta(days=1)
LOST = timedelta(minutes=15)
"""A request that has had no answer for so long died with its process; the next one with its key does it."""

Answer = tuple[int, Any]
"""Status and JSON body."""


def once(
    account: Account,
    key: str,
    fingerprint: str,
    act: Callable[[], Answer],
    *,
    slow: bool = False,
    secret: bool = False,
) -> tuple[Answer, bool]:
    """Do it, or repeat the answer that the first request with this key got; true when it was repeated.

    Only success is kept: after a refusal the caller mends the request and may use the key again.

    Args:
        fingerprint: of method, address and body.
        slow: do not hold a transaction meanwhile. (With one, a killed process leaves both the deed and its
            answer, or neither.)
        secret: the answer holds what nobody may read twice, so it is not kept.
    Raises: Conflict when the key belongs to another request, or its first request is not done yet.
    """
    row = _reserve(account, key, fingerprint)
    if row.fingerprint != fingerprint:
        raise Conflict("This Idempotency-Key was used for another request: choose a new one.")
    if row.status is not None:
        if secret:
            raise Conflict("This was done already, and its answer held a secret that is shown once.")
        return (row.status, row.body), True
    try:
        with nullcontext() if slow else transaction.atomic():
            status, body = act()
            is_done = status < 300
            if is_done:
                IdempotencyKey.objects.filter(pk=row.pk).update(status=status, body=None if secret else body)
            elif not slow:
                transaction.set_rollback(True)
    except BaseException:
        IdempotencyKey.objects.filter(pk=row.pk).delete()
        raise
    if not is_done:
        IdempotencyKey.objects.filter(pk=row.pk).delete()
    return (status, body), False


def _reserve(account: Account, key: str, fingerprint: str) -> IdempotencyKey:
    """The row of a key: new and ours, or answered. Raises Conflict while another request is at work on it."""
    now = timezone.now()
    IdempotencyKey.objects.filter(created__lt=now - KEPT).delete()
    try:
        with transaction.atomic():
            return IdempotencyKey.objects.create(account=account, key=key, fingerprint=fingerprint)
    except IntegrityError:
        row = IdempotencyKey.objects.filter(account=account, key=key).first()
    if row is None or (row.status is None and row.fingerprint == fingerprint and not _take_over(row)):
        raise Conflict("The first request with this Idempotency-Key is not done yet: try again in a moment.")
    return row


def _take_over(row: IdempotencyKey) -> bool:
    now = timezone.now()
    lost = IdempotencyKey.objects.filter(pk=row.pk, status=None, created=row.created, created__lt=now - LOST)
    return bool(lost.update(created=now))
