"""`manage.py reindex`: rebuild the index of artifacts and runs from the manifests in the store."""

from typing import Any

from django.core.management.base import BaseCommand

from lab.services import artifacts


class Command(BaseCommand):
    help = "Rebuild the database's index of artifacts and runs from their manifests."

    def handle(self, *args: Any, **options: Any) -> None:
        counts = artifacts.reindex()
        self.stdout.write(
            f"{counts['artifacts']} artifacts indexed; {counts['runs']} lost runs and {counts['inputs']} links "
            f"made again; {counts['damaged']} manifests could not be read."
        )
