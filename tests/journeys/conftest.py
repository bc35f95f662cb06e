"""A lab and a browser for labelers' journeys; other journeys have a lab of their own, under the same name."""

import pytest

from tests.journeys.stack import Lab, lab
from tests.setup_chromium import ARGUMENTS, find


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    if find() is None:
        pytest.skip("there is no Chromium on this machine: install the package chromium")
    with lab(tmp_path_factory.mktemp("ranking")) as started:
        yield started


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find(), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def context(running: Lab, chromium):
    from tests.journeys.ranking import signed_in

    with signed_in(running, chromium) as context:
        yield context
