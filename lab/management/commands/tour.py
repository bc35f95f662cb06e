"""`manage.py tour`: a model's whole life on this machine, watched in the terminal, in the running lab or one of its own."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from lab.errors import Conflict, Invalid
from lab.management.commands import up
from lab.models import Account, Tour
from lab.processes import Stack, hold, port_is_taken, stack
from lab.queries import machine
from lab.queries.tour import WAITING, Row, table
from lab.services import tour as tours

LOOK_EVERY = 0.5


class Command(BaseCommand):
    _peak = 0
    help = "Take a small model through its whole life and print what each stage made."

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument(
            "--pages", type=Path, help="a WARC file, or a folder of them, instead of Python's documentation"
        )
        parser.add_argument("--documents", type=Path, help="JSONL or Parquet with texts")
        parser.add_argument(
            "--small", action="store_true", help="the smallest of everything: a test of the mechanism"
        )
        parser.add_argument("--seed", type=int, default=None, help="of conversations, networks and sampling")

    def handle(self, *args: Any, pages: Path | None, documents: Path | None, **options: Any) -> None:
        for name, path in (("--pages", pages), ("--documents", documents)):
            if path is not None and not path.exists():
                raise CommandError(f"{name} names {path}, and there is no such file: check the path.")
        if pages and documents:
            raise CommandError("--pages and --documents are two ways to begin: give one of them.")
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)  # as Ctrl-C: the lab of our own is ended
        own = self._lab_of_our_own()
        try:
            account = Account.objects.filter(role="admin").order_by("pk").first()
            # Whoever starts a command here may read these files; the folders allowed to the API stay as they are.
            settings.IMPORT_ROOTS = [*settings.IMPORT_ROOTS, *(path for path in (pages, documents) if path)]
            sources = {
                name: str(path.resolve())
                for name, path in (("pages", pages), ("documents", documents))
                if path
            }
            try:
                tour = tours.start({**sources, "small": options["small"], "seed": options["seed"]}, account)
            except (Conflict, Invalid) as error:
                raise CommandError(f"{str(error)[0].upper()}{str(error)[1:]}.") from None
            begun = time.monotonic()
            self._say(f"The tour runs live at {settings.LAB_URL}\n")
            self._watch(tour, own)
            tour.refresh_from_db()
            self._print_table(table(tour), time.monotonic() - begun)
        except KeyboardInterrupt:
            raise CommandError("The tour goes on at the next `make run`.") from None
        finally:
            if own:
                own.stop()
        if tour.status != "succeeded":
            raise CommandError(f"The tour has {tour.status}: {tour.error}")

    def _lab_of_our_own(self) -> Stack | None:
        """None where a lab of this LAB_HOME runs already."""
        if machine.engine()["status"] == "ok" and machine.workers():
            return None
        if port_is_taken(settings.LAB_HOST, settings.LAB_PORT):
            raise CommandError(
                f"Port {settings.LAB_PORT} is taken by something else: choose another with "
                f"LAB_PORT={settings.LAB_PORT + 1} make tour."
            )
        self._held = hold()
        if self._held is None:
            raise CommandError(
                f"The lab in {settings.LAB_HOME} is starting or ending: try again in a moment, or choose "
                "another folder with LAB_HOME."
            )
        up.prepare()
        own = stack(None, self._held)
        own.start()
        if not own.wait_until_ready():
            own.stop()
            raise CommandError(f"The lab did not start: its logs are in {settings.LAB_HOME / 'logs'}.")
        link = up.first_sign_in_link(settings.LAB_URL)
        if link:
            self._say(f"Sign in once as administrator: {link}")
        return own

    def _watch(self, tour: Tour, own: Stack | None) -> None:
        """A line for each stage as it ends, and one that tells what runs now."""
        told: set[str] = set()
        while True:
            if own:
                own.look_after()
                self._peak = max(self._peak, _memory_of_all(os.getpid()))
            over = Tour.objects.values_list("status", flat=True).get(pk=tour.pk) != "running"
            for row in table(tour):
                if row.status in ("succeeded", "failed", "cancelled") and row.stage not in told:
                    told.add(row.stage)
                    self._say(f"\r\033[K{self._line(row)}" if sys.stdout.isatty() else self._line(row))
                elif row.status == "running" and sys.stdout.isatty():
                    sys.stdout.write(f"\r\033[K{self._now(row)}")
                    sys.stdout.flush()
            if over:
                return
            time.sleep(LOOK_EVERY)

    def _line(self, row: Row) -> str:
        took = f"{row.seconds:6.1f} s" if row.seconds is not None else " " * 8
        return f"{row.stage:<14}{row.status:<10}{took}  {row.made}"

    def _now(self, row: Row) -> str:
        progress = (row.run.progress if row.run else None) or {}
        step, total = progress.get("step"), progress.get("total")
        share = (
            f"{step:,} of {total:,} {progress.get('unit', '')}" if step is not None and total else row.made
        )
        return f"{row.stage:<14}{row.status:<10}{share}"

    def _print_table(self, rows: list[Row], seconds: float) -> None:
        width = min(shutil.get_terminal_size((110, 20)).columns, 120)
        rule = "─" * width
        self._say(f"\n{rule}\n{'stage':<14}{'time':>8}  made, and how good it is\n{rule}")
        for row in rows:
            took = f"{row.seconds:.1f} s" if row.seconds is not None else "–"
            what = row.made or ("not reached" if row.status == WAITING else row.status)
            self._say(f"{row.stage:<14}{took:>8}  {what}")
            for finding in row.findings:
                lines = textwrap.wrap(finding, width - 26)
                self._say(
                    "\n".join(" " * 24 + ("· " if n == 0 else "  ") + line for n, line in enumerate(lines))
                )
        memory = f", {self._peak / 2**30:.1f} GB of memory at the peak" if self._peak else ""
        self._say(f"{rule}\n{seconds:.0f} s in all on {os.cpu_count()} cores{memory}")

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()


def _memory_of_all(pid: int) -> int:
    """Bytes that a process and all its descendants hold now, shared pages counted each time."""
    listing = subprocess.run(["ps", "-axo", "pid=,ppid=,rss="], capture_output=True, text=True).stdout
    rows = [
        tuple(int(part) for part in line.split()) for line in listing.splitlines() if len(line.split()) == 3
    ]
    family = {pid}
    for child, parent, _ in sorted(rows):
        if parent in family:
            family.add(child)
    return 1024 * sum(kilobytes for child, _, kilobytes in rows if child in family)
