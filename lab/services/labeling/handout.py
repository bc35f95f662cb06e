"""One leased group per labeler at a time; rankings handed in, once each, and taken back.

Every change of a project's leases and rankings first locks the project's row, so that two labelers who ask
in the same instant never get the same group (unless the project wants several rankings of each).
"""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from threading import Lock
from typing import Any

from django.db import connection, transaction
from django.db.models import Count, Exists, IntegerField, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.utils import timezone

from lab.errors import Conflict, FieldError, Invalid
from lab.models import Account, Group, Lease, Project, Ranking
from lab.services.labeling import orders

LEASE = timedelta(minutes=10)
MAX_SECONDS = 24 * 3600
MAX_TEXT = 10_000
REPEAT_GAP = 5
"""Rankings between one of a group and its repetition: enough to have forgotten it."""
_writing = Lock()
SAID = ("order", "all_bad", "flags", "marks", "comment", "correction")


def next_group(project: Project, account: Account) -> Group | None:
    """Lease the group that this labeler should rank now; None when nothing is left for them."""
    lease = next_lease(project, account)
    return lease.group if lease else None


def next_lease(project: Project, account: Account) -> Lease | None:
    """The lease of the group at hand, made longer, or of a new one: gold or a repetition when it is their turn."""
    now = timezone.now()
    with _alone():
        project = _locked(project)
        if project.closed:
            return None
        held = Lease.objects.filter(group__project=project, labeler=account, skipped=False, expires__gt=now)
        lease = held.select_related("group").first()
        if lease is not None:
            return _lease(lease.group, account, now, lease.round)
        if due := _due(project, account):
            if "gold" in due and (group := _check(project, account)):
                return _lease(group, account, now)
            if "repeat" in due and (group := _repetition(project, account)):
                return _lease(group, account, now, round=1)
        group = _free(project, account, now).order_by("turn", "index").first()
        return _lease(group, account, now) if group else None


def _check(project: Project, account: Account) -> Group | None:
    """A gold group that this labeler has not had."""
    seen = Ranking.objects.filter(group__project=project, labeler=account).values("group")
    left = project.groups.filter(gold__isnull=False).exclude(pk__in=seen)
    return left.exclude(pk__in=_skipped(account)).order_by("turn", "index").first()


def _repetition(project: Project, account: Account) -> Group | None:
    """A group that this labeler ranked a while ago and only once."""
    mine = Ranking.objects.filter(group__project=project, labeler=account)
    recent = mine.order_by("-id").values_list("group", flat=True)[:REPEAT_GAP]
    left = mine.filter(round=0, group__gold__isnull=True).exclude(group__in=list(recent))
    left = left.exclude(group__in=mine.filter(round=1).values("group")).exclude(group__in=_skipped(account))
    places = list(left.values_list("group", flat=True)[:1000])
    return Group.objects.get(pk=random.choice(places)) if places else None


def _due(project: Project, account: Account) -> set[str]:
    """What is to measure this labeler now: each once in each run of `every` rankings, at a place nobody can foresee."""
    wanted = {what: n for what, n in (("gold", project.gold_every), ("repeat", project.repeat_every)) if n}
    if not wanted:
        return set()
    n = Ranking.objects.filter(group__project=project, labeler=account).count()
    seeds = {what: f"{project.pk}/{account.pk}/{what}/{n // every}" for what, every in wanted.items()}
    return {
        what for what, every in wanted.items() if random.Random(seeds[what]).randrange(every) == n % every
    }


def _skipped(account: Account) -> QuerySet[Lease, Any]:
    return Lease.objects.filter(labeler=account, skipped=True).values("group")


def _free(project: Project, account: Account, now: datetime) -> QuerySet[Group]:
    """Groups with room for one more ranking, that this labeler has neither ranked nor skipped.

    All is asked of one group after the other, by its own index, and the first that fits ends the search: fifty
    labelers ask ten times a second, and each waits for those before.
    """
    of_group = OuterRef("pk")
    ranked = Ranking.objects.filter(group=of_group, round=0)
    at_work = Lease.objects.filter(_others_at_work(account, now), group=of_group)
    skipped = Lease.objects.filter(group=of_group, labeler=account, skipped=True)
    free = project.groups.filter(~Exists(skipped), gold__isnull=True)
    if project.rankings_per_group == 1:
        return free.filter(~Exists(ranked), ~Exists(at_work))
    free = free.filter(~Exists(ranked.filter(labeler=account)))
    # Two subqueries and no join: a join would count each ranking once for every lease.
    taken = free.annotate(taken=_number(ranked) + _number(at_work))
    return taken.filter(taken__lt=project.rankings_per_group)


def _number(rows: QuerySet[Any, Any]) -> Coalesce:
    counted = rows.order_by().values("group").annotate(n=Count("pk")).values("n")
    return Coalesce(Subquery(counted, output_field=IntegerField()), 0)


def _others_at_work(account: Account, now: datetime) -> Q:
    return Q(skipped=False, round=0, expires__gt=now) & ~Q(labeler=account)


def _has_room(project: Project, group: Group, account: Account, now: datetime) -> bool:
    if group.gold is not None:
        return True
    n_taken = group.rankings.filter(round=0).exclude(labeler=account).count()
    return n_taken + group.leases.filter(_others_at_work(account, now)).count() < project.rankings_per_group


def _lease(group: Group, account: Account, now: datetime, round: int = 0, skipped: bool = False) -> Lease:
    lease = Lease(group=group, labeler=account, expires=now + LEASE, skipped=skipped, round=round)
    # One statement, where update_or_create takes four; whoever asks has locked the project.
    Lease.objects.bulk_create(
        [lease],
        update_conflicts=True,
        unique_fields=["group", "labeler"],
        update_fields=["expires", "skipped", "round"],
    )
    return lease


@contextmanager
def _alone() -> Iterator[None]:
    """A transaction for which this process's threads queue where the database is SQLite.

    SQLite lets who finds it locked sleep and look again, up to 0.1 s later and in no order: of fifty labelers who
    hand in at once some would wait for many seconds. Who is in a transaction already holds that lock.
    """
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        with transaction.atomic():
            yield
        return
    with _writing, transaction.atomic():
        yield


def _locked(project: Project) -> Project:
    """The project's row, locked until the transaction ends. (SQLite locks all when the transaction begins.)"""
    return Project.objects.select_for_update().get(pk=project.pk)


def hand_in(
    group: Group,
    account: Account,
    order: list[list[int]],
    all_bad: bool = False,
    flags: dict[str, list[str]] | None = None,
    seconds: float = 0.0,
    *,
    marks: dict[str, int] | None = None,
    comment: str = "",
    correction: str = "",
    submission: str = "",
) -> Ranking:
    """Store a ranking of a leased group. The same one sent again, by its `submission` or its content, counts once.

    Args:
        submission: the client's own name of this hand-in, kept over lost answers and reloads.
    Raises: Invalid when it does not name every answer once, or something else in it will not do; Conflict when
        the group is not this labeler's to rank.
    """
    said: dict[str, Any] = {
        "order": order,
        "all_bad": all_bad,
        "flags": {str(key): sorted(set(names)) for key, names in (flags or {}).items() if names},
        "marks": {str(key): mark for key, mark in (marks or {}).items()},
        "comment": comment.replace("\0", "").strip(),
        "correction": correction.replace("\0", "").strip(),
    }
    now = timezone.now()
    with _alone():
        project = _locked(group.project)
        if submission and (known := Ranking.objects.filter(labeler=account, submission=submission).first()):
            if known.group_id != group.pk:
                raise Conflict("another group was handed in under this submission: name each anew")
            return known
        if errors := _wrong(project, len(group.completions), said, seconds, submission):
            raise Invalid(errors)
        lease = group.leases.filter(labeler=account, skipped=False).first()
        if lease is None and (last := group.rankings.filter(labeler=account).order_by("-round").first()):
            if all(getattr(last, name) == said[name] for name in SAID):
                return last
            raise Conflict("you have ranked this group already: undo that first")
        if project.closed:
            raise Conflict("this project is closed: it takes no more rankings")
        if lease is None:
            raise Conflict("this group is not leased to you: ask for the next one")
        # Whoever was away for ten minutes may find that others have the group: the work is kept all the same.
        extra = lease.expires <= now and not lease.round and not _has_room(project, group, account, now)
        lease.delete()
        lease.group = group
        return Ranking.objects.create(
            group=group,
            labeler=account,
            round=lease.round,
            extra=extra,
            shown=lease.shown,
            seconds=seconds,
            submission=submission,
            **said,
        )


def _wrong(
    project: Project, n: int, said: dict[str, Any], seconds: float, submission: str
) -> list[FieldError]:
    errors = orders.wrong(n, said["order"])
    known = {str(index) for index in range(n)}
    for field in ("flags", "marks"):
        for key in set(said[field]) - known:
            errors.append(FieldError(field, f"there is no answer {key!r}: the answers are 0 to {n - 1}"))
    for name in {name for names in said["flags"].values() for name in names} - set(project.flags):
        some = f"choose among {', '.join(project.flags)}" if project.flags else "this project asks for none"
        errors.append(FieldError("flags", f"there is no flag {name!r} here: {some}"))
    errors += _wrong_marks(project.scale, known, said)
    for field, is_asked in (("comment", project.asks_comment), ("correction", project.asks_correction)):
        if said[field] and not is_asked:
            errors.append(FieldError(field, f"this project asks for no {field}"))
        if len(said[field]) > MAX_TEXT:
            text = f"{len(said[field]):,} characters are too many: write up to {MAX_TEXT:,}"
            errors.append(FieldError(field, text))
    if not math.isfinite(seconds) or not 0 <= seconds <= MAX_SECONDS:
        errors.append(FieldError("seconds", f"{seconds} will not do: give 0 to {MAX_SECONDS} seconds"))
    if len(submission) > 64 or not submission.isprintable():
        errors.append(FieldError("submission", "a submission's name has up to 64 printable characters"))
    return errors


def _wrong_marks(scale: int, known: set[str], said: dict[str, Any]) -> list[FieldError]:
    marks = said["marks"]
    if marks and not scale:
        return [FieldError("marks", "this project asks for no marks")]
    if any(not 1 <= mark <= scale for mark in marks.values()):
        return [FieldError("marks", f"a mark is 1, the worst, to {scale}, the best")]
    if scale and not said["all_bad"] and (missing := sorted(known - set(marks))):
        return [FieldError("marks", f"answer {missing[0]} has no mark: give each one 1 to {scale}")]
    return []


def renew(group: Group, account: Account) -> Lease:
    """Make the lease of a group longer, which its labeler is still at work on.

    Raises: Conflict when it is not leased to them, or when it was over and others have the group now.
    """
    now = timezone.now()
    with _alone():
        project = _locked(group.project)
        lease = group.leases.filter(labeler=account, skipped=False).first()
        if lease is None:
            raise Conflict("this group is not leased to you: ask for the next one")
        if project.closed:
            raise Conflict("this project was closed meanwhile")
        if lease.expires <= now and not lease.round and not _has_room(project, group, account, now):
            raise Conflict("ten minutes were over and somebody else has this group too: your ranking counts beside theirs")  # fmt: skip
        return _lease(group, account, now, lease.round)


def skip(group: Group, account: Account) -> None:
    """Pass a group on: this labeler does not get it again, the others do. Raises Conflict when it is not theirs."""
    with _alone():
        _locked(group.project)
        lease = group.leases.filter(labeler=account, skipped=False).first()
        if lease is None:
            raise Conflict("this group is not leased to you: ask for the next one")
        _lease(group, account, timezone.now(), lease.round, skipped=True)


def undo(project: Project, account: Account) -> Ranking:
    """Take back this labeler's last ranking (which is returned) and lease its group to them again."""
    now = timezone.now()
    with _alone():
        project = _locked(project)
        if project.closed:
            raise Conflict("this project is closed: its rankings stand")
        mine = Ranking.objects.filter(group__project=project, labeler=account)
        last = mine.select_related("group").order_by("-id").first()
        if last is None:
            raise Conflict("you have ranked nothing in this project yet: there is nothing to undo")
        # What was at hand goes back to the others; a labeler holds one group at a time.
        Lease.objects.filter(group__project=project, labeler=account, skipped=False).delete()
        last.delete()
        _lease(last.group, account, now, last.round)
        return last
