"""What a researcher says of a group: the order that is known beforehand (gold), or on which they decide (settled)."""

from django.utils import timezone

from lab.errors import Invalid
from lab.models import Account, Group
from lab.services.labeling import orders

Order = list[list[int]]


def set_gold(group: Group, order: Order | None) -> Group:
    """Make a group gold, or an ordinary one again. Gold groups go once to each labeler, and measure them.

    Raises: Invalid when the order does not name every answer once.
    """
    if order is not None and (errors := orders.wrong(len(group.completions), order)):
        raise Invalid(errors)
    group.gold = order
    group.save(update_fields=["gold"])
    return group


def settle(group: Group, account: Account, order: Order, note: str = "") -> Group:
    """Decide on the order of a group whose labelers differ; an export takes it in place of theirs.

    Raises: Invalid when the order does not name every answer once.
    """
    if errors := orders.wrong(len(group.completions), order):
        raise Invalid(errors)
    group.settled, group.settled_by, group.settled_at = order, account, timezone.now()
    group.settled_note = note.strip()
    group.save(update_fields=["settled", "settled_by", "settled_at", "settled_note"])
    return group


def unsettle(group: Group) -> Group:
    """Let the labelers' rankings count again."""
    group.settled, group.settled_by, group.settled_at, group.settled_note = None, None, None, ""
    group.save(update_fields=["settled", "settled_by", "settled_at", "settled_note"])
    return group
