"""Two labelers, for the tests of labelling."""

import pytest


@pytest.fixture
def lea(account):
    return account("labeler", "lea")


@pytest.fixture
def lou(account):
    return account("labeler", "lou")
