"""Both answers of a battle through a real web server and a real engine: streamed, hidden, failed, tried again."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from lab.services.arena.answering import storable
from tests.engines import KEY, running, write_checkpoint
from tests.webs import Manage, serving

NAMES = ("alpha-1", "beta-2")
SECRETS = ("alpha", "beta", "aaaa1111", "bbbb2222", "checkpoint", "chatcmpl", "address-", "elsewhere")


class Lab(NamedTuple):
    url: str
    engine: str
    manage: Manage
    admin: httpx.Client
    labeler: httpx.Client

    def active(self, *names: str) -> None:
        for one in self.admin.get("/arena/contenders").json()["items"]:
            self.admin.patch(f"/arena/contenders/{one['id']}", json={"active": one["name"] in names})

    def begin(self, prompt: str = "the cat") -> dict[str, Any]:
        made = self.labeler.post("/arena/battles", json={"prompt": prompt})
        assert made.status_code == 201, made.text
        return made.json()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    home = tmp_path_factory.mktemp("lab")
    for run, name, seed in (("aaaa1111", NAMES[0], 0), ("bbbb2222", NAMES[1], 1)):
        write_checkpoint(home / "artifacts", run, name=name, seed=seed, writes_ascii=True)
    with (
        running(home / "artifacts") as engine,
        serving(home, engine) as (url, manage),
        httpx.Client(base_url=f"{url}/api/v1", timeout=60) as admin,
        httpx.Client(base_url=f"{url}/api/v1", timeout=60) as labeler,
    ):
        manage("reindex")
        for client, name, role in ((admin, "root", "admin"), (labeler, "lea", "labeler")):
            client.headers["Authorization"] = f"Bearer {manage('token', name, '--role', role)}"
        for run in ("aaaa1111", "bbbb2222"):
            added = admin.post("/arena/contenders", json={"model": f"{run}-checkpoint"})
            assert added.status_code == 201, added.text
        yield Lab(url, engine, manage, admin, labeler)


@pytest.fixture(autouse=True)
def both_active(lab: Lab) -> None:
    lab.active(*NAMES)


def stream(lab: Lab, battle: int) -> tuple[list[tuple[str, dict[str, Any]]], str]:
    """The events of a battle's answers, and all that was sent, headers too."""
    with lab.labeler.stream("POST", f"/arena/battles/{battle}/answers", json={}) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = answer.read().decode()
        sent = f"{dict(answer.headers)}\n{text}"
    events = []
    for block in text.split("\n\n"):
        if block:
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            events.append((fields["event"], json.loads(fields["data"])))
    return events, sent


def test_both_sides_stream_and_nothing_tells_who_speaks(lab: Lab) -> None:
    battle = lab.begin()
    events, sent = stream(lab, battle["id"])
    assert events[-1] == ("end", {})
    told = lab.labeler.get(f"/arena/battles/{battle['id']}")
    for side, answer in zip(("left", "right"), told.json()["turns"][0]["answers"], strict=True):
        pieces = [data["text"] for name, data in events if name == "piece" and data["side"] == side]
        assert len(pieces) > 5, "it came piece by piece"
        assert answer["status"] == "done" and answer["text"] == "".join(pieces)
        [done] = [data for name, data in events if name == "done" and data["side"] == side]
        assert done == {name: answer[name] for name in ("side", "html", "tokens", "cut_off")}
        assert answer["tokens"] > 5
    first = [data["side"] for name, data in events if name == "piece"][:40]
    assert set(first) == {"left", "right"}, "side by side, and not one after the other"
    for text in (sent, told.text, f"{dict(told.headers)}"):
        assert not [secret for secret in SECRETS if secret in text.lower()]


def test_a_vote_names_them_and_the_conversation_goes_on_before_it(lab: Lab) -> None:
    battle = lab.begin("the sea")
    stream(lab, battle["id"])
    refused = lab.labeler.post(f"/arena/battles/{battle['id']}/turns", json={"prompt": "the sea " * 99})
    assert refused.status_code == 201
    events, _ = stream(lab, battle["id"])
    # The context is 96 tokens long.
    failed = [data for name, data in events if name == "failed"]
    assert {one["side"] for one in failed} == {"left", "right"}
    assert all("longer than this model can read" in one["message"] for one in failed)
    voted = lab.labeler.post(f"/arena/battles/{battle['id']}/vote", json={"outcome": "left"})
    assert voted.status_code == 201
    assert {voted.json()[side]["name"] for side in ("left", "right")} == set(NAMES)


def test_a_seed_says_the_same_again_and_the_next_asker_takes_over(lab: Lab) -> None:
    battle = lab.begin("a tree")
    with lab.labeler.stream("POST", f"/arena/battles/{battle['id']}/answers", json={}) as left_early:
        assert left_early.status_code == 200
        next(left_early.iter_raw())
    stream(lab, battle["id"])
    told = lab.labeler.get(f"/arena/battles/{battle['id']}").json()["turns"][0]["answers"]
    assert all(one["status"] == "done" for one in told)
    # What is whole is told, not sampled again: who asks may have been told before that it was under way.
    fields = ("side", "html", "tokens", "cut_off")
    done = [("done", {name: one[name] for name in fields}) for one in told]
    assert stream(lab, battle["id"])[0] == [*done, ("end", {})]
    assert lab.labeler.get(f"/arena/battles/{battle['id']}").json()["turns"][0]["answers"] == told


def test_a_model_that_is_gone_fails_without_its_name_and_researchers_read_why(lab: Lab) -> None:
    given = {"url": f"{lab.engine}/v1", "key": KEY, "model": "nobody", "name": "elsewhere-9", "local": True}
    address = lab.admin.post("/models/addresses", json=given).json()
    added = lab.admin.post("/arena/contenders", json={"model": f"address-{address['id']}"}).json()
    lab.active(NAMES[0], "elsewhere-9")
    try:
        battle = lab.begin()
        events, sent = stream(lab, battle["id"])
        assert sorted(name for name, _ in events if name != "piece") == ["done", "end", "failed"]
        [failed] = [data for name, data in events if name == "failed"]
        assert failed["message"] == "This answer could not be had. Try again, or leave this battle."
        told = lab.labeler.get(f"/arena/battles/{battle['id']}")
        assert not [secret for secret in SECRETS if secret in (sent + told.text).lower()]
        [seen] = [one for one in lab.admin.get("/arena/battles").json()["items"] if one["id"] == battle["id"]]
        assert "nobody" in seen["problems"][0]
        # Asked again, only what is missing is sampled anew.
        events, _ = stream(lab, battle["id"])
        assert {data["side"] for name, data in events if name == "failed"} == {failed["side"]}
        assert [name for name, _ in events] == ["done", "failed", "end"]
        assert (
            lab.labeler.post(f"/arena/battles/{battle['id']}/vote", json={"outcome": "left"}).status_code
            == 409
        )
        assert lab.labeler.post(f"/arena/battles/{battle['id']}/leave").status_code == 204
        gone = lab.labeler.post(f"/arena/battles/{battle['id']}/answers", json={})
        assert gone.status_code == 409 and "over" in gone.json()["detail"]
    finally:
        lab.admin.patch(f"/arena/contenders/{added['id']}", json={"active": False})
        lab.admin.delete(f"/models/addresses/{address['id']}")


def test_a_server_elsewhere_answers_in_a_battle_like_the_labs_own(lab: Lab) -> None:
    given = {"url": f"{lab.engine}/v1", "key": KEY, "model": NAMES[1], "name": "elsewhere-8", "local": True}
    address = lab.admin.post("/models/addresses", json=given).json()
    added = lab.admin.post("/arena/contenders", json={"model": f"address-{address['id']}"}).json()
    lab.active(NAMES[0], "elsewhere-8")
    try:
        battle = lab.begin()
        events, sent = stream(lab, battle["id"])
        assert [name for name, _ in events].count("done") == 2
        assert not [secret for secret in SECRETS if secret in sent.lower()]
    finally:
        lab.admin.patch(f"/arena/contenders/{added['id']}", json={"active": False})
        lab.admin.delete(f"/models/addresses/{address['id']}")


@pytest.mark.django_db(transaction=True)
async def test_an_engine_that_is_down_is_told_for_both_sides(
    account: Any, settings: Any, tmp_home: Path
) -> None:
    from asgiref.sync import sync_to_async

    from lab.models import Answer
    from lab.services import arena
    from tests.lab import fights

    settings.ENGINE_URL = "unix:///nowhere/engine.sock"

    def begin() -> Any:
        return fights.begun(account("labeler", "lea"), fights.contender("A-1"), fights.contender("B-1"))

    battle = await sync_to_async(begin)()
    claims = await sync_to_async(arena.claim)(battle)
    events = [event async for event in arena.answers(claims)]
    assert {event["side"] for event in events} == {"left", "right"}
    assert all("do not answer now" in event["failed"] for event in events)
    kept = await sync_to_async(lambda: list(Answer.objects.values_list("status", "problem")))()
    assert [status for status, _ in kept] == ["failed", "failed"]
    assert all("engine.log" in problem for _, problem in kept)


def test_what_no_database_keeps_is_taken_out_of_texts_and_of_reasons():
    assert storable("a\0b\ud800c 🦉") == "ab?c 🦉"
