"""Battles over the API: two are drawn, both answer, one vote; and no name before it."""

import pytest

from lab.errors import Conflict
from lab.models import Account, Answer, Battle, Contender, Vote
from lab.models.arena import FAILED
from lab.services.arena import battles
from tests.lab import fights, making

pytestmark = pytest.mark.django_db
BATTLES = "/api/v1/arena/battles"
SECRETS = ("Wren-27", "Owl-8", "secret")


@pytest.fixture
def two(tmp_home):
    """Two contenders whose names, models and checkpoints would give them away."""
    found = []
    for name in SECRETS[:2]:
        made = fights.checkpoint(f"secret {name}")
        found.append(fights.contender(name, model=made.pk, checkpoint=made))
    return found


@pytest.fixture
def asked(api, two):
    """lea's battle, which waits for its answers."""
    made = api("labeler", "lea").post(BATTLES, {"prompt": "  What is 2 + 2?\r\n"})
    assert made.status_code == 201, made.content
    return Battle.objects.get(pk=made.json()["id"])


def is_silent(answer, two) -> bool:
    said = answer.content.decode()
    return not any(
        secret in said for one in two for secret in (one.name, one.model, "secret", 'checkpoint": "')
    )


def test_a_labeler_asks_and_two_hidden_models_stand_ready(asked, api, two):
    told = api("labeler", "lea").get(f"{BATTLES}/{asked.pk}")
    [turn] = told.json()["turns"]
    assert turn["prompt"] == "What is 2 + 2?"
    assert [(one["side"], one["status"]) for one in turn["answers"]] == [
        ("left", "waiting"),
        ("right", "waiting"),
    ]
    assert told.json()["state"] == "open" and told.json()["left"] is told.json()["right"] is None
    assert {asked.left, asked.right} == set(two)


def test_no_answer_of_the_lab_tells_a_name_before_the_vote(asked, api, browser, two):
    """Everything that a labeler can read or do, with the battle waiting, answered, failed, asked on and left."""
    program, person = api("labeler", "lea"), browser("labeler", "lea")
    Answer.objects.filter(turn__battle=asked, side="left").update(
        status=FAILED, problem=f"There is no model {two[0].model}: {two[0].name}"
    )
    seen = [program.get(f"{BATTLES}/{asked.pk}"), person.get("/arena")]
    seen.append(program.post(f"{BATTLES}/{asked.pk}/vote", {"outcome": "left"}))
    fights.answer(asked)
    seen += [program.get(f"{BATTLES}/{asked.pk}"), person.get("/arena"), person.get("/label")]
    seen += [program.get(f"{BATTLES}/suggestion"), program.get("/api/v1/me"), program.get(BATTLES)]
    seen += [
        program.get(f"/api/v1/arena/{path}")
        for path in ("contenders", "leaderboard", "wins", "judges", "export")
    ]
    seen += [person.get(f"/arena/{path}") for path in ("ratings", "models")]
    seen += [person.get(f"/checkpoints/{one.model}") for one in two]
    seen.append(program.post(f"{BATTLES}/{asked.pk}/turns", {"prompt": "And 3 + 3?"}))
    seen.append(program.post(f"{BATTLES}/{asked.pk}/vote", {"outcome": "none"}))
    seen.append(program.post(f"{BATTLES}/{asked.pk}/leave"))
    seen.append(program.get(f"{BATTLES}/{asked.pk}"))
    for answer in seen:
        assert is_silent(answer, two), answer.content.decode()
    assert [one.status_code for one in seen[9:16]] == [403] * 7


def test_a_vote_shows_who_spoke_and_counts_once(asked, api, two):
    fights.answer(asked)
    program = api("labeler", "lea")
    told = program.post(f"{BATTLES}/{asked.pk}/vote", {"outcome": "right", "seconds": 4.2})
    assert told.status_code == 201
    assert (told.json()["left"]["name"], told.json()["right"]["name"]) == (asked.left.name, asked.right.name)
    again = program.post(f"{BATTLES}/{asked.pk}/vote", {"outcome": "right", "seconds": 99})
    assert again.status_code == 201 and again.json() == told.json()
    other = program.post(f"{BATTLES}/{asked.pk}/vote", {"outcome": "left"})
    assert other.status_code == 409 and "stands" in other.json()["detail"]
    [vote] = Vote.objects.all()
    assert (vote.outcome, vote.seconds, vote.kind, vote.account.username) == ("right", 4.2, "human", "lea")
    assert Battle.objects.get().style == [[1, 0, 0, 0], [15, 0, 1, 0]]


def test_two_votes_in_the_same_instant_are_one(asked, account, monkeypatch):
    """The second has looked before the first was written: the database holds it back."""
    fights.answer(asked)
    lea = account("labeler", "lea")
    first = battles.vote(asked, lea, "tie")
    Battle.objects.update(ended=None)
    looks = iter([None])
    real = battles._known
    monkeypatch.setattr(battles, "_known", lambda *given: next(looks, real(*given)))
    assert battles.vote(asked, lea, "tie") == first
    assert Vote.objects.count() == 1


def test_a_vote_that_came_after_the_same_one_from_another_tab_is_that_one(asked, account, monkeypatch):
    """It looked before the other was written, and found the battle over."""
    fights.answer(asked)
    lea = account("labeler", "lea")
    first = battles.vote(asked, lea, "tie")
    real = battles._known
    monkeypatch.setattr(battles, "_known", _blind_once(real))
    assert battles.vote(asked, lea, "tie") == first
    monkeypatch.setattr(battles, "_known", _blind_once(real))
    with pytest.raises(Conflict, match="that vote stands"):
        battles.vote(asked, lea, "left")
    assert Vote.objects.count() == 1


def _blind_once(look):
    """`look`, which sees nothing the first time."""
    seen = []
    return lambda *given: look(*given) if seen else seen.append(given)


def test_a_judges_vote_that_somebody_brought_in_shows_them_no_name(asked, api, account):
    """Even when the dataset that it came from is gone."""
    lea = account("labeler", "lea")
    fights.answer(asked)
    Vote.objects.create(battle=asked, kind="judge", judge="lea", account=lea, outcome="right")
    told = api("labeler", "lea").get(f"{BATTLES}/{asked.pk}").json()
    assert (told["state"], told["left"], told["outcome"]) == ("open", None, None)
    assert api("labeler", "lea").post(f"{BATTLES}/{asked.pk}/vote", {"outcome": "left"}).status_code == 201


def test_a_battle_of_somebody_else_is_not_there(asked, api):
    fights.answer(asked)
    for role, name in (("labeler", "lou"), ("researcher", None)):
        program = api(role, name)
        assert program.get(f"{BATTLES}/{asked.pk}").status_code == 404
        for path, body in (
            ("vote", {"outcome": "left"}),
            ("turns", {"prompt": "x"}),
            ("leave", {}),
            ("answers", {}),
        ):
            assert program.post(f"{BATTLES}/{asked.pk}/{path}", body).status_code == 404, path
    assert not Vote.objects.exists()


def test_strangers_get_nothing(asked, api):
    stranger = api(None)
    for path in ("", f"/{asked.pk}", "/suggestion"):
        assert stranger.get(f"{BATTLES}{path}").status_code == 401
    for path in ("", f"/{asked.pk}/turns", f"/{asked.pk}/answers", f"/{asked.pk}/vote", f"/{asked.pk}/leave"):
        assert stranger.post(f"{BATTLES}{path}", {}).status_code == 401


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("", {"prompt": ""}, "prompt"),
        ("", {"prompt": " \n"}, "prompt"),
        ("", {"prompt": "x" * 20_001}, "prompt"),
        ("", {}, "prompt"),
        ("", {"prompt": "x", "left": 1}, "left"),
        ("/{id}/turns", {"prompt": " "}, "prompt"),
        ("/{id}/vote", {"outcome": "best"}, "outcome"),
        ("/{id}/vote", {"outcome": "left", "seconds": -1}, "seconds"),
        ("/{id}/vote", {"outcome": "left", "seconds": 90_000}, "seconds"),
    ],
)
def test_bad_input_is_told_at_its_field(asked, api, path, body, field):
    fights.answer(asked)
    answer = api("labeler", "lea").post(BATTLES + path.format(id=asked.pk), body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


def test_the_arena_needs_two_active_models(api, two):
    Contender.objects.filter(pk=two[0].pk).update(is_active=False)
    answer = api("labeler").post(BATTLES, {"prompt": "hello"})
    assert answer.status_code == 409 and "two active models" in answer.json()["detail"]
    assert is_silent(answer, two)


def test_a_vote_waits_for_both_answers_and_a_failed_one_is_no_answer(asked, api):
    program, vote = api("labeler", "lea"), f"{BATTLES}/{asked.pk}/vote"
    assert "must have ended" in program.post(vote, {"outcome": "left"}).json()["detail"]
    fights.answer(asked)
    Answer.objects.filter(turn__battle=asked, side="right").update(status=FAILED)
    answer = program.post(vote, {"outcome": "left"})
    assert answer.status_code == 409 and "failed" in answer.json()["detail"]
    assert program.post(f"{BATTLES}/{asked.pk}/turns", {"prompt": "on"}).status_code == 409


def test_a_follow_up_goes_to_both_and_a_failed_turn_is_passed_over(asked, api):
    program = api("labeler", "lea")
    fights.answer(asked, "4", "5")
    told = program.post(f"{BATTLES}/{asked.pk}/turns", {"prompt": "Are you sure?"})
    assert told.status_code == 201 and [turn["number"] for turn in told.json()["turns"]] == [0, 1]
    assert program.post(f"{BATTLES}/{asked.pk}/turns", {"prompt": "And?"}).status_code == 409
    fights.answer(asked, "yes", "no")
    Answer.objects.filter(turn__battle=asked, turn__number=1, side="right").update(status=FAILED)
    assert program.post(f"{BATTLES}/{asked.pk}/vote", {"outcome": "tie"}).status_code == 201
    asked.refresh_from_db()
    assert asked.style == [[1, 0, 0, 0], [1, 0, 0, 0]], "of the first turn alone"


def test_a_battle_has_ten_turns_at_most(asked, api):
    program = api("labeler", "lea")
    for n in range(9):
        fights.answer(asked)
        assert program.post(f"{BATTLES}/{asked.pk}/turns", {"prompt": f"on {n}"}).status_code == 201
    fights.answer(asked)
    answer = program.post(f"{BATTLES}/{asked.pk}/turns", {"prompt": "one more"})
    assert answer.status_code == 409 and "10 turns" in answer.json()["detail"]


def test_the_next_battle_leaves_the_open_one_and_a_left_one_takes_no_vote(asked, api):
    program = api("labeler", "lea")
    fights.answer(asked)
    assert program.post(BATTLES, {"prompt": "another"}).status_code == 201
    told = program.get(f"{BATTLES}/{asked.pk}").json()
    assert (told["state"], told["left"]) == ("left", None)
    assert program.post(f"{BATTLES}/{asked.pk}/vote", {"outcome": "left"}).status_code == 409
    assert program.post(f"{BATTLES}/{asked.pk}/leave").status_code == 204
    assert not Vote.objects.exists()


def test_an_idempotency_key_begins_one_battle(api, two):
    program, key = api("labeler", "lea"), {"Idempotency-Key": "k1"}
    first = program.post(BATTLES, {"prompt": "hello"}, headers=key)
    assert program.post(BATTLES, {"prompt": "hello"}, headers=key).json() == first.json()
    assert Battle.objects.count() == 1


def test_sides_and_pairs_are_drawn(account, two):
    """Of two models each stands on the left in some of 40 battles; of three all pairs are met."""
    lea = account("labeler", "lea")
    drawn = [battles.begin(lea, "hello") for _ in range(40)]
    assert {one.left_id for one in drawn} == {one.pk for one in two}
    third = fights.contender("Third-3")
    pairs = {
        frozenset((one.left_id, one.right_id)) for one in (battles.begin(lea, "hello") for _ in range(40))
    }
    assert len(pairs) == 3 and any(third.pk in pair for pair in pairs)


def test_the_pair_of_which_least_is_known_is_drawn_more_often(account, two):
    lea, third = account("labeler", "lea"), fights.contender("Third-3")
    fights.many(lea, [(two[0], two[1], outcome) for outcome in ("left", "right") * 40])
    drawn = [
        frozenset((one.left_id, one.right_id)) for one in (battles.begin(lea, "hello") for _ in range(30))
    ]
    assert sum(third.pk in pair for pair in drawn) > 25


def test_an_answer_that_tells_its_models_name_makes_a_vote_that_does_not_count(account, two):
    lea = account("labeler", "lea")
    assert fights.fought(lea, *two, "left", "I am Wren-27.", "no").counts is False
    assert fights.fought(lea, *two, "left", "I am WREN-27.", "no").counts is False
    assert fights.fought(lea, *two, "left", "I am Wren-270.", "no").counts is True
    plain = [fights.contender("chat"), fights.contender("Owl")]
    assert fights.fought(lea, *plain, "left", "Let us chat.", "ok").counts is True
    assert fights.fought(lea, *plain, "left", "ok", "I, Owl, say so").counts is False
    assert fights.fought(lea, *plain, "left", "ok", "An owl is a bird.").counts is True


def test_a_program_that_plays_a_labeler_votes_as_a_judge(account, two):
    robot = account("labeler", "robot")
    Account.objects.filter(pk=robot.pk).update(is_simulated=True)
    robot.refresh_from_db()
    vote = fights.fought(robot, *two)
    assert (vote.kind, vote.judge) == ("judge", "robot")
    assert battles.vote(vote.battle, robot, "left") == vote


def test_researchers_list_battles_with_names_but_for_the_one_they_play(asked, api, account, two):
    mine = fights.begun(account("researcher"), *two, prompt="mine")
    Answer.objects.filter(turn__battle=asked, side="left").update(status=FAILED, problem="There is no model.")
    [told] = api().get(BATTLES).json()["items"]
    assert (told["id"], told["left"], told["right"]) == (asked.pk, asked.left.name, asked.right.name)
    assert told["problems"] == ["left: There is no model."]
    battles.leave(mine, account("researcher"))
    assert api().get(BATTLES).json()["count"] == 2


def test_a_question_is_drawn_from_the_labs_own_data(api, tmp_home):
    program = api("labeler")
    assert program.get(f"{BATTLES}/suggestion").json() == {"prompt": ""}
    making.dataset("prompts", [{"prompt": "What is <b>3</b> + 4?"}])
    assert program.get(f"{BATTLES}/suggestion").json() == {"prompt": "What is <b>3</b> + 4?"}
