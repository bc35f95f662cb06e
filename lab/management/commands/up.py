"""`manage.py up`: the whole lab in the foreground, from an empty folder, ended cleanly by Ctrl-C."""

import hashlib
import signal
import sys
import time
from typing import Any

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from lab import paths
from lab.models import Account
from lab.processes import Process, hold, port_is_taken, stack


class Command(BaseCommand):
    help = "Start the lab: its queue, web, worker and engine."

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("--quiet", action="store_true", help="only the address and the sign-in link")

    def handle(self, *args: Any, quiet: bool = False, **options: Any) -> None:
        held = hold()
        if held is None:
            raise CommandError(
                f"The lab in {settings.LAB_HOME} runs already: stop it, or choose another folder with LAB_HOME."
            )
        if port_is_taken(settings.LAB_HOST, settings.LAB_PORT):
            raise CommandError(
                f"Port {settings.LAB_PORT} of {settings.LAB_HOST} is taken: stop what runs there, or choose "
                f"another port with LAB_PORT={settings.LAB_PORT % 65535 + 1} make run."
            )
        prepare()
        running = stack(self._say if not quiet else None, held)
        stopping = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: stopping.append(True))
        running.start()
        try:
            if running.wait_until_ready(lambda: bool(stopping)):
                self._greet()
            elif not stopping:
                silent = ", ".join(process.name for process in running.processes if not process.ready())
                self.stderr.write(
                    f"Not ready after two minutes: {silent}; see the logs in {settings.LAB_HOME / 'logs'}."
                )
            while not stopping:
                running.look_after()
                time.sleep(0.3)
        finally:
            self.stdout.write("\nEnding: runs save their state and go on at the next start.")
            running.stop()
            self.stdout.write("All processes have ended.")

    def _say(self, process: Process, line: str) -> None:
        sys.stdout.write(f"{process.name:>6} │ {line}\n")
        sys.stdout.flush()

    def _greet(self) -> None:
        address = f"http://{settings.LAB_HOST}:{settings.LAB_PORT}"
        self.stdout.write(f"\n  Move 37 is ready at {address}\n")
        link = first_sign_in_link(address)
        if link:
            self.stdout.write(f"  Sign in once as administrator: {link}\n")
        else:
            self.stdout.write("  A new sign-in link: .venv/bin/python manage.py signin NAME\n")
        self.stdout.write("  Ctrl-C ends it.\n\n")
        self.stdout.flush()


def prepare() -> None:
    """Database and static files, brought up to date; quick when they are."""
    paths.home()
    call_command("migrate", verbosity=0, interactive=False)
    note = paths.inside("static") / ".collected"
    present = _fingerprint()
    # Hashing and compressing takes seconds, and at nearly every start nothing has changed.
    if not note.exists() or note.read_text() != present:
        call_command("collectstatic", verbosity=0, interactive=False)
        note.write_text(present)


def _fingerprint() -> str:
    """Of every static file's name, size and time."""
    digest = hashlib.sha256()
    for finder in get_finders():
        for name, storage in finder.list([]):
            digest.update(f"{name} {storage.size(name)} {storage.get_modified_time(name)}\n".encode())
    return digest.hexdigest()


def first_sign_in_link(address: str) -> str | None:
    """A one-time link for the administrator, made with the account when there is none; None once one signed in."""
    from lab.services import accounts

    admin = Account.objects.filter(role="admin").order_by("pk").first()
    if admin is not None and admin.last_login is not None:
        return None
    admin = admin or accounts.create("admin", "admin")
    return address + accounts.make_link(admin)
