"""`manage.py token NAME --role ROLE`: a fresh API token on standard output, and nothing else."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from lab.errors import Invalid
from lab.models import ROLES, Account
from lab.services import accounts


class Command(BaseCommand):
    help = "Print a fresh API token of an account, which is made when it is missing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="the account's name")
        parser.add_argument("--role", choices=ROLES, default="researcher")

    def handle(self, *args: Any, name: str, role: str, **options: Any) -> None:
        try:
            account = Account.objects.filter(username=name).first() or accounts.create(name, role)
            if not account.is_active:
                raise CommandError(f"{name} is shut out: choose another name")
            if not account.may(role):
                # Whoever may run this command owns the lab; they are told all the same.
                self.stderr.write(f"{name} was a {account.role} and is now a {role}")
                accounts.set_role(account, role)
            _, secret = accounts.make_token(account, "command line", role)
        except Invalid as error:
            raise CommandError(str(error)) from error
        self.stdout.write(secret)
