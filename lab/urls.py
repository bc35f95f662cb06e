"""Every address of the lab: the pages of each section, the REST API, and the engine's protocol."""

from importlib import import_module
from importlib.util import find_spec

from django.urls import URLPattern, URLResolver

PAGES = (
    "home",
    "tour",
    "search",
    "runs",
    "run",
    "compare",
    "new_run",
    "account",
    "models",
    "styleguide",
    "datasets",
    "tokenizers",
    "checkpoints",
    "playground",
    "labeling",
)

urlpatterns: list[URLPattern | URLResolver] = []
for name in (*(f"lab.pages.{page}" for page in PAGES), "lab.api.urls"):
    if find_spec(name):
        urlpatterns += import_module(name).urlpatterns

handler403 = "lab.pages.home.forbidden"
handler404 = "lab.pages.home.missing"
handler500 = "lab.pages.home.broken"
