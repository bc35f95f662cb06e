"""Which models meet in the arena, and by what names."""

import pytest

from lab.models import Contender
from tests.lab import fights, making

pytestmark = pytest.mark.django_db


ARENA = "/api/v1/arena"


@pytest.fixture
def two(tmp_home):
    found = [fights.checkpoint("wren"), fights.checkpoint("owl")]
    return [fights.contender(one.name, model=one.pk, checkpoint=one) for one in found]


def test_models_are_let_in_renamed_rested_anchored_and_taken_out(api, tmp_home):
    wren, owl = fights.checkpoint("wren"), fights.checkpoint("owl")
    program = api()
    first = program.post(f"{ARENA}/contenders", {"model": wren.pk})
    assert first.status_code == 201
    told = first.json()
    assert (told["name"], told["checkpoint"], told["active"], told["anchor"]) == (
        "wren",
        wren.pk,
        True,
        False,
    )
    second = program.post(f"{ARENA}/contenders", {"model": owl.pk, "name": "  Owl <b>8</b> "}).json()
    assert second["name"] == "Owl <b>8</b>"
    address = f"{ARENA}/contenders/{second['id']}"
    assert program.patch(address, {"anchor": True}).json()["anchor"] is True
    assert (
        program.patch(f"{ARENA}/contenders/{told['id']}", {"anchor": True, "active": False}).status_code
        == 200
    )
    anchors = {
        one["name"]: (one["anchor"], one["active"])
        for one in program.get(f"{ARENA}/contenders").json()["items"]
    }
    assert anchors == {"wren": (True, False), "Owl <b>8</b>": (False, True)}
    assert program.patch(address, {"name": "Owl-8"}).json()["name"] == "Owl-8"
    assert program.delete(address).status_code == 204
    assert not Contender.objects.filter(name="Owl-8").exists()


def test_models_of_runs_that_share_a_name_are_told_apart_by_a_number(api, tmp_home):
    for n in range(3):
        made = api().post(f"{ARENA}/contenders", {"model": fights.checkpoint("wren").pk})
        assert made.json()["name"] == ("wren", "wren 2", "wren 3")[n]


def test_who_has_fought_stays(api, account, two):
    fights.fought(account("labeler", "lea"), *two)
    answer = api().delete(f"{ARENA}/contenders/{two[0].pk}")
    assert answer.status_code == 409 and "rest" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("model", "name", "field"),
    [
        ("nothing", "", "model"),
        ("address-99", "", "model"),
        ("file-1", "", "model"),
        ("{reward}", "", "model"),
        ("{rollouts}", "", "model"),
        ("{wren}", "", "model"),
        ("{owl}", "wren", "name"),
        ("{owl}", "a\nb\0" + "c" * 200, "name"),
        ("../../etc", "", "model"),
    ],
)
def test_what_cannot_fight_is_told_at_its_field(api, tmp_home, model, name, field):
    made = {"wren": fights.checkpoint("wren"), "owl": fights.checkpoint("owl")}
    made |= {"reward": fights.checkpoint("critic", "reward"), "rollouts": making.rollouts()}
    fights.contender("wren", model=made["wren"].pk, checkpoint=made["wren"])
    given = {
        "model": model.format(**{key: one.pk for key, one in made.items()}),
        "name": name[:100] if "\0" in name else name,
    }
    answer = api().post(f"{ARENA}/contenders", given)
    if "\0" in name:
        assert answer.status_code == 400, "no text of the API holds NUL"
        return
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


def test_a_name_that_is_taken_is_told_when_one_is_renamed(api, two):
    answer = api().patch(f"{ARENA}/contenders/{two[0].pk}", {"name": two[1].name})
    assert answer.status_code == 422 and answer.json()["errors"][0]["field"] == "name"
    assert api().patch(f"{ARENA}/contenders/999", {"name": "x"}).status_code == 404
