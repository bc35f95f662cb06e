"""The suite itself: it touches no lab but its own."""

from tests import environment


def test_the_suite_lives_in_a_home_of_its_own(settings):
    assert settings.LAB_HOME == environment.HOME
    assert settings.ARTIFACT_ROOT.is_relative_to(environment.HOME)
    name = settings.DATABASES["default"]["NAME"]
    assert "sqlite" not in settings.DATABASES["default"]["ENGINE"] or str(environment.HOME) in str(name)
