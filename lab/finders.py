"""Where static files come from beyond our own folders (Plotly's script lies in its wheel), and how they are kept."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.contrib.staticfiles.finders import FileSystemFinder
from django.core.files.storage import FileSystemStorage
from whitenoise.compress import Compressor
from whitenoise.storage import CompressedManifestStaticFilesStorage


class PlotlyFinder(FileSystemFinder):
    """Finds plotly/plotly.min.js, without importing the package and without the rest of its data."""

    def __init__(self, app_names: object = None, *args: object, **kwargs: object) -> None:
        super().__init__(app_names, *args, **kwargs)
        spec = find_spec("plotly")
        assert spec and spec.origin
        folder = Path(spec.origin).parent / "package_data"
        storage = FileSystemStorage(location=folder)
        storage.prefix = "plotly"  # type: ignore[attr-defined]
        self.locations = [("plotly", str(folder))]
        self.storages = {str(folder): storage}

    def check(self, **kwargs: object) -> list:
        return []

    def find_location(self, root: str, path: str, prefix: str | None = None) -> str | None:
        return super().find_location(root, path, prefix) if path == "plotly/plotly.min.js" else None

    def list(self, ignore_patterns: object) -> object:
        [storage] = self.storages.values()
        yield "plotly.min.js", storage


class StaticFiles(CompressedManifestStaticFilesStorage):
    """Hashed names and gzip; Brotli would spend half a minute on Plotly's script for a quarter fewer bytes."""

    def create_compressor(self, **options: Any) -> Compressor:
        return Compressor(use_brotli=False, **options)
