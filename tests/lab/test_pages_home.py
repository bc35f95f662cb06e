"""The home: its board is computed from the runs, and nobody's text becomes HTML."""

import re

import pytest
from django.utils import timezone

from lab.models import Artifact, Contender, Group, Project, Ranking, Run, RunInput
from lab.queries.board import board
from lab.queries.lineage import chain
from lab.templatetags.lab import letter

EVIL = '<img src=x onerror="alert(1)">'


def make_run(kind, name="a run", status="succeeded", takes=(), **fields):
    run = Run.objects.create(kind=kind, name=name, status=status, started=timezone.now(), **fields)
    for place, (input_name, artifact) in enumerate(takes):
        RunInput.objects.create(run=run, name=input_name, artifact=artifact, position=place)
    return run


def make_artifact(run, output, kind, what="", **fields):
    return Artifact.objects.create(
        id=f"{run.uid}-{output}",
        kind=kind,
        form=what if kind == "dataset" else "",
        role=what if kind == "checkpoint" else "",
        name=run.name,
        path=f"{run.uid}/{output}",
        size=1,
        run=run,
        output=output,
        created=timezone.now(),
        **fields,
    )


@pytest.fixture
def life(db):
    """crawl → tokenizer → pretrain → sft → rollouts → people → reward → rlhf, with numbers in that order."""
    crawl = make_run("crawl")
    documents = make_artifact(crawl, "documents", "dataset", "documents")
    tokenizer_run = make_run("tokenizer", takes=[("documents", documents)])
    tokenizer = make_artifact(tokenizer_run, "tokenizer", "tokenizer")
    pretrain = make_run("pretrain", takes=[("documents", documents), ("tokenizer", tokenizer)])
    base = make_artifact(pretrain, "checkpoint", "checkpoint", "base")
    sft = make_run("sft", takes=[("checkpoint", base)])
    chat = make_artifact(sft, "checkpoint", "checkpoint", "chat")
    rollouts_run = make_run("rollouts", takes=[("checkpoint", chat)])
    rollouts = make_artifact(rollouts_run, "rollouts", "dataset", "rollouts")
    project = Project.objects.create(name="Round 1", source=rollouts, closed=timezone.now())
    rankings = Artifact.objects.create(
        id="0000-rankings", kind="dataset", form="rankings", name="rankings", path="x", size=1,
        summary={"project": project.pk}, manifest={"origin": {"recipe": "labeling", "inputs": {"rollouts": [rollouts.pk]}}}, created=timezone.now(),
    )  # fmt: skip
    reward = make_run("reward", takes=[("checkpoint", chat), ("rankings", rankings)])
    scorer = make_artifact(reward, "checkpoint", "checkpoint", "reward")
    rlhf = make_run("rlhf", takes=[("checkpoint", chat), ("reward", scorer)])
    return {"crawl": crawl, "tokenizer": tokenizer_run, "pretrain": pretrain, "sft": sft, "rollouts": rollouts_run,
            "project": project, "reward": reward, "rlhf": rlhf}  # fmt: skip


def places(drawn):
    return {stone.id: (stone.x, stone.y) for stone in drawn.stones}


def test_the_models_own_line_is_one_row_and_its_feedback_another(life):
    at = places(board())
    main = [at[f"run-{life[kind].pk}"] for kind in ("crawl", "tokenizer", "pretrain", "sft", "rlhf")]
    assert len({y for _, y in main}) == 1
    assert [x for x, _ in main] == [3, 8, 14, 20, 30]
    side = [
        at[f"run-{life['rollouts'].pk}"],
        at[f"project-{life['project'].pk}"],
        at[f"run-{life['reward'].pk}"],
    ]
    assert len({y for _, y in side}) == 1 and side[0][1] != main[0][1]
    assert [x for x, _ in side] == [20, 25, 30]


def test_models_that_met_lead_to_the_arena(life, browser):
    chat = Artifact.objects.get(role="chat")
    Contender.objects.create(name=EVIL, model=chat.pk, checkpoint=chat)
    drawn = board()
    assert places(drawn)["arena"][0] == 35
    assert (f"run-{life['sft'].pk}", "arena") in {(link["from"], link["to"]) for link in drawn.links}
    page = browser().get("/").content.decode()
    assert "1 model, 0 votes" in page and EVIL not in page


def test_rankings_join_people_to_the_reward_model_and_detours_are_not_drawn_twice(life):
    lines = {(link["from"], link["to"]) for link in board().links}
    run = {kind: f"run-{one.pk}" for kind, one in life.items() if kind != "project"}
    people = f"project-{life['project'].pk}"
    assert (people, run["reward"]) in lines and (run["rollouts"], people) in lines
    assert (run["sft"], run["rlhf"]) in lines and (run["reward"], run["rlhf"]) in lines
    # pretrain took the documents too, but stands on them by way of the tokenizer; likewise reward on sft.
    assert (run["crawl"], run["pretrain"]) not in lines
    assert (run["sft"], run["reward"]) not in lines


def test_no_two_stones_share_a_place_however_many_branches_there_are(life):
    tokenizer = Artifact.objects.get(kind="tokenizer")
    for number in range(4):
        one = make_run("pretrain", f"branch {number}", takes=[("tokenizer", tokenizer)])
        weights = make_artifact(one, "checkpoint", "checkpoint", "base")
        make_run("sft", takes=[("checkpoint", weights)])
    drawn = board()
    assert len(set(places(drawn).values())) == len(drawn.stones)
    n_runs = sum(1 for stone in drawn.stones if stone.run)
    assert n_runs + drawn.n_more == Run.objects.count()


def test_a_sweep_of_more_than_five_runs_becomes_one_stack(life):
    tokenizer = Artifact.objects.get(kind="tokenizer")
    for number in range(7):
        make_run("pretrain", f"lr {number}", takes=[("tokenizer", tokenizer)])
    [stack] = [stone for stone in board().stones if stone.stack]
    assert len(stack.stack) == 7


def test_a_run_that_waits_is_joined_by_a_dashed_line(life):
    waiting = make_run(
        "evaluate",
        status="queued",
        pending={"checkpoints": [{"run": life["rlhf"].pk, "output": "checkpoint"}]},
    )
    [link] = [link for link in board().links if link["to"] == f"run-{waiting.pk}"]
    assert link["look"] == "wait" and link["from"] == f"run-{life['rlhf'].pk}"


def test_the_empty_home_offers_the_tour(browser):
    page = browser("researcher").get("/").content.decode()
    assert "Nothing has been played yet" in page and "Take the tour" in page


def test_the_home_shows_the_board_and_what_waits_for_a_person(browser, life):
    failed = make_run("crawl", EVIL, "failed", error={"message": f"No disk {EVIL}"})
    group = Group.objects.create(project=life["project"], index=0, prompt="?", completions=["a", "b"])
    Project.objects.filter(pk=life["project"].pk).update(closed=None, name=EVIL)
    page = browser("researcher").get("/").content.decode()
    assert f"/runs/{failed.pk}" in page and "See why" in page
    assert "1 group to rank" in page and "0 of 1 groups ranked" in page
    assert "<img" not in page and "&lt;img" in page
    assert group.prompt == "?"


def test_the_live_part_alone_has_no_head_of_its_own(browser, life):
    page = browser("researcher").get("/?live").content.decode()
    assert "<html" not in page and "map-stones" in page


def test_a_stranger_is_asked_to_sign_in_and_a_labeler_is_led_to_labelling(browser, db):
    for address in ("/", "/runs", "/models", "/settings", "/styleguide", "/search", "/machine"):
        answer = browser(None).get(address)
        assert answer.status_code == 302 and answer["Location"].startswith("/sign-in"), address
    assert browser("labeler").get("/")["Location"] == "/label"
    for address in ("/runs", "/models", "/settings", "/styleguide", "/search", "/machine"):
        assert browser("labeler").get(address).status_code == 403, address


def test_jumping_finds_runs_by_number_and_name_and_pages_by_title(browser, life):
    Run.objects.filter(pk=life["sft"].pk).update(name="wren chat")
    client = browser("researcher")
    by_name = client.get("/search?format=json&q=wren+ch").json()["items"]
    assert by_name[0]["url"] == f"/runs/{life['sft'].pk}"
    by_number = client.get(f"/search?format=json&q={life['sft'].pk}").json()["items"]
    assert by_number[0]["number"] == str(life["sft"].pk)
    assert any(
        item["url"] == "/settings" for item in client.get("/search?format=json&q=settings").json()["items"]
    )
    assert "Nothing has this name" in client.get("/search?q=zzzzzz").content.decode()


def test_every_page_has_one_h1_and_only_one_current_section(browser, life):
    client = browser("admin")
    pages = [
        "/",
        "/runs",
        f"/runs/{life['pretrain'].pk}",
        "/runs/new",
        "/runs/new/pretrain",
        "/settings",
        "/styleguide",
        "/search",
    ]
    for address in pages:
        page = client.get(address).content.decode()
        assert page.count("<h1") == 1, address
        assert page.count('<main id="main"') == 1 and 'lang="en"' in page, address
        assert " onclick=" not in page and "<style" not in page and " style=" not in page, address


def test_what_does_not_exist_is_told_on_a_page_of_the_lab(browser, db):
    answer = browser("researcher").get("/nothing")
    assert answer.status_code == 404 and "Nothing stands here" in answer.content.decode()


def test_the_styleguide_renders_every_stone(browser, db):
    page = browser("researcher").get("/styleguide").content.decode()
    for look in ("running", "waiting", "failed", "cancelled", "people", "empty"):
        assert f"{look}" in page
    assert not Run.objects.exists()


def test_a_ranked_project_is_no_longer_gold(life):
    project = life["project"]
    Project.objects.filter(pk=project.pk).update(closed=None)
    group = Group.objects.create(project=project, index=0, prompt="?", completions=["a", "b"])
    [stone] = [one for one in board().stones if one.project]
    assert stone.is_live
    labeler = make_labeler()
    Ranking.objects.create(group=group, labeler=labeler, order=[[0], [1]])
    [stone] = [one for one in board().stones if one.project]
    assert not stone.is_live


def make_labeler():
    from lab.models import Account

    return Account.objects.create_user("lea", role="labeler")


def test_the_lineage_goes_through_what_people_ranked(browser, life):
    page = browser("researcher").get(f"/runs/{life['rlhf'].pk}/lineage").content.decode()
    assert f"/runs/{life['crawl'].pk}" in page and "Round 1" in page
    assert f"/labeling/{life['project'].pk}" in page


def test_a_run_and_what_it_made_stand_on_one_line(browser, life):
    life["crawl"].name = EVIL
    life["crawl"].save()
    rankings = Artifact.objects.get(form="rankings")
    rankings.manifest["origin"]["config"] = {"project": life["project"].pk}
    rankings.save()
    whole = ["crawl", "tokenizer", "pretrain", "sft", "rollouts", "project", "reward"]
    assert chain(life["rlhf"], 9) == [life[name] for name in whole]
    assert chain(life["rlhf"], 2) == [life["project"], life["reward"]]
    scorer = Artifact.objects.get(role="reward")
    assert chain(scorer, 9) == [life[name] for name in whole[:-1]]
    assert chain(life["crawl"], 9) == []
    for path in (f"/runs/{life['reward'].pk}", f"/runs/{life['crawl'].pk}"):
        page = browser("researcher").get(path).content.decode()
        assert 'aria-label="Lineage"' in page and EVIL not in page
    line = re.search(
        r'<ol class="chain".*?</ol>', browser().get(f"/runs/{life['reward'].pk}").content.decode()
    )[0]
    # Four before it, people's project white, then itself, then what stands on it.
    assert line.count("<li>") == 6
    assert re.search(rf'stone people *">{letter(life["project"].pk)}</span>', line)
    assert re.search(r'aria-current="page"><span class="stone *">\d+</span> <span dir="auto">this run<', line)
