"""`manage.py signin NAME`: a fresh one-time sign-in link for an account."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from lab.models import Account
from lab.services import accounts


class Command(BaseCommand):
    help = "Print a one-time sign-in link."

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("name")

    def handle(self, *args: Any, name: str, **options: Any) -> None:
        account = Account.objects.filter(username=name).first()
        if account is None:
            names = ", ".join(Account.objects.values_list("username", flat=True)[:20])
            raise CommandError(f"There is no account {name!r}. There are: {names or 'none'}.")
        self.stdout.write(f"{settings.LAB_URL}{accounts.make_link(account)}")
