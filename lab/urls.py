"""Every address of the lab: the pages of each section, the REST API, and the engine's protocol."""

from django.urls import URLPattern, URLResolver

from lab.api import urls as api
from lab.pages import (
    account,
    arena,
    checkpoints,
    compare,
    datasets,
    home,
    labeling,
    models,
    new_run,
    playground,
    run,
    runs,
    search,
    styleguide,
    tokenizers,
    tour,
    tricks,
)

SECTIONS = (
    home,
    tour,
    search,
    runs,
    run,
    tricks,
    compare,
    new_run,
    account,
    models,
    styleguide,
    datasets,
    tokenizers,
    checkpoints,
    playground,
    labeling,
    arena,
)
urlpatterns: list[URLPattern | URLResolver] = [
    pattern for section in SECTIONS for pattern in section.urlpatterns
]
urlpatterns += api.urlpatterns

handler403 = "lab.pages.home.forbidden"
handler404 = "lab.pages.home.missing"
handler500 = "lab.pages.home.broken"
