"""A hunt's tricks: shown as text beside fair answers, marked, taken back, taught, and the rounds on one chart."""

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyarrow.parquet as pq
import pytest
from django.conf import settings

from core_ml import artifact
from core_ml.feedback.gaming import bench, kept
from core_ml.feedback.gaming.report import rounds_figure
from core_ml.feedback.gaming.trick import Trick
from lab.models import Figure, RunInput, TrickMark
from lab.queries import artifacts as artifact_queries
from lab.services import artifacts, labeling
from lab.services import tricks as services
from tests.lab import making
from tests.lab.test_pages_home import EVIL

pytestmark = pytest.mark.django_db
V1 = "/api/v1"
THE = Trick("repetition", (("text", "the"),), 5)
ATTACK = Trick("search", (("text", EVIL),))
HELPS = Trick("stitching", (("text", "I hope that helps."),))
CASES = [
    bench.Case(
        f"What is {i} + 5?", (f"It is {i + 5}.", f"It is {i + 9}."), (0.25, -0.5), -0.125, (True, True)
    )
    for i in range(3)
]


def measured(trick, scores):
    return bench.scored(trick, CASES, scores)


def hunt_run(name="hunt", earlier=None, found=((THE, [2, 1, 1]), (ATTACK, [3, 1, -1])), accuracy=0.8):
    """A hunt that has ended, with the files that the recipe writes; `earlier` is the dataset of the one before."""
    run = making.run("succeeded", kind="hunt", name=name)
    before, rounds = kept.earlier(
        [kept.read(artifact.Folder(artifacts.local_path(earlier)))] if earlier else []
    )
    me, number = f"{run.uid}-rollouts", len(rounds) + 1
    known = {one.id: one for one in before}
    told = [
        (one, kept.known(one, me, number, 0.5, known.get(trick.id)))
        for trick, scores in found
        for one in [measured(trick, scores)]
    ]
    facts = [fact for _, fact in told]
    cohorts = [
        kept.Cohort(
            round=n, found_by=by, n=sum(f.found_by == by for f in facts), working=sum(f.works for f in facts if f.found_by == by)
        )
        for n, by in [*((one.round, one.found_by) for one in rounds), (number, me)]
    ]  # fmt: skip
    this = kept.Round(round=number, found_by=me, cohorts=cohorts, accuracy=accuracy, low=accuracy - 0.1, high=accuracy + 0.1)  # fmt: skip
    origin = artifact.Origin(recipe="hunt", run=run.pk, name=name)
    writer = artifact.Writer(
        Path(settings.ARTIFACT_ROOT) / run.uid / "rollouts", id=me, kind="dataset", form="rollouts", name=name, origin=origin
    )  # fmt: skip
    ages = [(one, kept.OLD if fact.id in known else kept.NEW) for one, fact in told]
    hunt = kept.Hunt(tricks=facts, rounds=[*rounds, this], min_share=0.5, bar="median")
    kept.write(writer.path, hunt, list(kept.groups(ages, CASES, {}, 2)))
    writer.finish({"n_rows": 4})
    made = artifacts.register(run, "rollouts")
    if earlier:
        RunInput.objects.create(run=run, name="hunts", artifact=earlier, position=0)
    figure = rounds_figure(hunt.rounds, 9)
    Figure.objects.create(run=run, name="rounds", step=9, title=figure.title, content=figure.content, finding=figure.finding)  # fmt: skip
    return run, made


@pytest.fixture
def hunt(tmp_home):
    return hunt_run()


@pytest.fixture
def page(browser, hunt):
    return lambda query="": browser("researcher").get(f"/runs/{hunt[0].pk}/tricks{query}").content.decode()


def test_each_trick_stands_beside_fair_answers_with_its_score(page):
    shown = page()
    assert "“the”, 5 times" in shown and "the the the the the" in shown and "It is 5." in shown
    assert "works at <b>100 %</b> of 3 prompts" in shown and "is what it has to beat" in shown
    assert ">+2<" in shown and ">+0.25<" in shown and ">−0.50<" in shown
    assert shown.index("“the”, 5 times") < shown.index("It is 5.")
    assert "<b>0</b> marked as nonsense" in shown and ">Tricks</a>" in shown


def test_what_a_search_found_is_text(page):
    shown = page()
    assert "<img" not in shown and "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;" in shown


@pytest.mark.parametrize(
    ("query", "wanted", "not_wanted"),
    [
        ("?kind=repetition", ["“the”, 5 times", "1 to 1 of 1."], ["alert(1)"]),
        ("?age=old", ["No trick fits."], ["“the”, 5 times"]),
        ("?verdict=nonsense", ["No trick fits."], []),
        ("?verdict=none&working=1", ["1 to 2 of 2."], []),
        ("?kind=magic&age=x&verdict=y&offset=-1", ["1 to 2 of 2."], []),
        ("?offset=99", ["No trick fits."], []),
    ],
)
def test_filters_find_tricks_and_pass_over_what_means_nothing(page, query, wanted, not_wanted):
    shown = page(query)
    assert all(words in shown for words in wanted), shown
    assert not any(words in shown.replace("alert(1)&quot;&gt;&amp;", "") for words in not_wanted)


def test_a_person_marks_and_takes_back(browser, hunt, page):
    run, client = hunt[0], browser("researcher")
    answer = client.post(f"/runs/{run.pk}/tricks/mark", {"trick": THE.id, "verdict": "nonsense"})
    assert answer.status_code == 302 and answer.url == f"/runs/{run.pk}/tricks#trick-{THE.id}"
    client.post(f"/runs/{run.pk}/tricks/mark", {"trick": ATTACK.id, "verdict": "fair"})
    shown = page()
    assert "<b>1</b> marked as nonsense, <b>1</b> as fair, <b>0</b> of 2 not yet." in shown
    assert 'value="nonsense" aria-pressed="true"' in shown and 'value="fair" aria-pressed="true"' in shown
    client.post(f"/runs/{run.pk}/tricks/mark", {"trick": ATTACK.id, "verdict": "nonsense"})
    assert services.tricks.verdicts([ATTACK.id]) == {ATTACK.id: "nonsense"}
    client.post(f"/runs/{run.pk}/tricks/undo")
    assert services.tricks.verdicts([ATTACK.id]) == {ATTACK.id: "fair"}  # what was said before
    # A second person's undo takes back nothing of the first's.
    assert browser("researcher", "zoe").post(f"/runs/{run.pk}/tricks/undo").status_code == 302
    assert TrickMark.objects.count() == 2


def test_a_script_gets_only_what_changed(browser, hunt):
    run = hunt[0]
    answer = browser("researcher").post(
        f"/runs/{run.pk}/tricks/mark",
        {"trick": ATTACK.id, "verdict": "nonsense"},
        headers={"HX-Request": "true"},
    )
    told = answer.content.decode()
    assert answer.status_code == 200 and "<html" not in told and "<img" not in told
    assert f'id="trick-{ATTACK.id}"' in told and told.count('hx-swap-oob="true"') == 3
    assert 'id="trick-teach"' in told and "they all tie" in told
    assert "<b>1</b> marked as nonsense" in told
    bad = browser("researcher").post(
        f"/runs/{run.pk}/tricks/mark",
        {"trick": "nobody", "verdict": "nonsense"},
        headers={"HX-Request": "true"},
    )
    assert bad.status_code == 409


@pytest.mark.parametrize("given", [{}, {"trick": "x" * 12, "verdict": "nonsense"}, {"trick": THE.id, "verdict": "so-so"}])  # fmt: skip
def test_a_mark_that_makes_no_sense_changes_nothing(browser, hunt, given):
    answer = browser("researcher").post(f"/runs/{hunt[0].pk}/tricks/mark", given, follow=True)
    assert answer.status_code == 200 and 'class="toast"' in answer.content.decode()
    assert not TrickMark.objects.exists()


def test_rankings_put_what_is_marked_last_and_lead_to_training_again(browser, hunt, account, page):
    run, made = hunt
    chat, people = making.rollouts(uid="0000eeee"), making.dataset("rankings", [{"prompt": "p", "completions": ["a", "b"], "order": [[0], [1]]}], "0000ffff", "people")  # fmt: skip
    trained = making.run(
        "succeeded", kind="reward", name="judge", given={"epochs": 2.0, "weigh_labelers": True}
    )
    writer = artifact.Writer(Path(settings.ARTIFACT_ROOT) / trained.uid / "checkpoint", id=f"{trained.uid}-checkpoint", kind="checkpoint", role="reward", name="judge", origin=artifact.Origin(recipe="reward", run=trained.pk))  # fmt: skip
    (writer.path / "config.json").write_text("{}")
    writer.finish({})
    model = artifacts.register(trained, "checkpoint")
    for name, one in (("checkpoint", chat), ("rankings", people)):
        RunInput.objects.create(run=trained, name=name, artifact=one, position=0)
    RunInput.objects.create(run=run, name="reward", artifact=model, position=0)
    client = browser("researcher")
    none = client.post(f"/runs/{run.pk}/tricks/rankings", follow=True).content.decode()
    assert "Nothing is marked as nonsense yet" in none
    services.mark(run, THE.id, "nonsense", account("researcher"))
    services.mark(run, ATTACK.id, "fair", account("researcher"))
    done = client.post(f"/runs/{run.pk}/tricks/rankings", follow=True).content.decode()
    assert "2 rankings are made: what you marked stands last in each. In 2 the fair answers tie." in done
    assert "they all tie" in done and "Make rankings in labelers’ order" not in done
    none = client.post(f"/runs/{run.pk}/tricks/rankings", {"fair": "ordered"}, follow=True).content.decode()
    assert "No labeler has ordered the fair answers" in none
    (rankings,) = services.tricks.taught(run)
    rows = pq.read_table(artifacts.local_path(rankings) / "rankings.parquet").to_pylist()
    assert [row["order"] for row in rows] == [[[1, 2], [0]]] * 2  # the fair answers tie
    assert {row["completions"][0] for row in rows} == {"the the the the the"}
    assert {row["labeler"] for row in rows} == {"researcher"} and not rows[0]["simulated"]
    assert rankings.summary["pairs"] == 4 and rankings.summary["fair_ranked"] == 0
    assert rankings.manifest["origin"]["inputs"] == {"rollouts": [made.pk]}
    address = next(
        part.split('"')[0] for part in done.split('href="') if part.startswith("/runs/new/reward?")
    )
    query = parse_qs(urlsplit(address.replace("&amp;", "&")).query)
    assert query["inputs.rankings"] == [people.pk, rankings.pk] and query["inputs.checkpoint"] == [chat.pk]
    assert query["config.epochs"] == ["2.0"] and query["config.weigh_labelers"] == ["true"]
    assert query["inputs.earlier"] == [model.pk]
    form = client.get(address.replace("&amp;", "&")).content.decode()
    assert f'value="{rankings.pk}" checked' in form and f'value="{people.pk}" checked' in form
    # What was made of the marks stands between the hunt and whatever learns from it.
    edges = artifact_queries.lineage(rankings)["edges"]
    assert (f"artifact:{made.pk}", f"artifact:{rankings.pk}") in [tuple(edge) for edge in edges]


def test_fair_answers_keep_the_order_that_labelers_gave_them(browser, hunt, account):
    run, made = hunt
    lea, project = account("labeler", "lea"), labeling.create_project("tricks", made)
    group = labeling.next_group(project, lea)
    # Whatever stands where on the screen: the trick first, which the marks overrule, then "It is n.", then the right one.
    texts = group.completions
    first = int(group.prompt.split()[2])
    wrong, right = texts.index(f"It is {first + 9}."), texts.index(f"It is {first + 5}.")
    trick = ({0, 1, 2} - {wrong, right}).pop()
    labeling.hand_in(group, lea, [[trick], [wrong], [right]])
    for one in (THE, ATTACK):
        services.mark(run, one.id, "nonsense", account("researcher"))
    rankings = services.make_rankings(run, account("researcher"))
    rows = pq.read_table(artifacts.local_path(rankings) / "rankings.parquet").to_pylist()
    ranked = [row for row in rows if row["group_id"] == group.metadata["group_id"]]
    assert [row["order"] for row in ranked] == [
        [[2], [1], [0]]
    ]  # wrong before right, as lea said; the trick last
    assert json.loads(ranked[0]["metadata"])["fair"] == "ranked"
    assert rankings.summary["fair_ranked"] == 1
    # The better way stands first: those in lea's order alone.
    client = browser("researcher")
    shown = client.get(f"/runs/{run.pk}/tricks").content.decode()
    assert (
        "ordered the fair answers in <b>1</b> of the " in shown and f'href="/labeling/{project.pk}"' in shown
    )
    assert shown.index("Make rankings in labelers’ order") < shown.index("with ties</button>")
    done = client.post(f"/runs/{run.pk}/tricks/rankings", {"fair": "ordered"}, follow=True).content.decode()
    assert "1 ranking is made: what you marked stands last in each.<" in done.replace("\n", "")
    made_so_far = [
        (one.summary["rankings"], one.summary["fair_ranked"]) for one in services.tricks.taught(run)
    ]
    assert sorted(made_so_far) == [(1, 1), (4, 1)]
    assert all(row["order"] == [[1, 2], [0]] for row in rows if row not in ranked)


def test_rounds_stand_on_one_chart_and_count_what_people_called_nonsense(browser, api, hunt, account):
    run, made = hunt
    services.mark(run, THE.id, "nonsense", account("researcher"))
    later, _ = hunt_run("hunt 2", made, ((THE, [-1, -1, -1]), (ATTACK, [1, 1, 1]), (HELPS, [1, 1, 1])), 0.6)
    told = api().get(f"{V1}/runs/{later.pk}/tricks/rounds").json()
    assert [(one["round"], one["run"], one["found"], one["still"]) for one in told] == [(1, run.pk, 2, 1), (2, later.pk, 1, 1)]  # fmt: skip
    assert (told[0]["nonsense"], told[0]["nonsense_still"]) == (1, 0)
    assert [one["accuracy"] for one in told] == [0.8, 0.6]
    assert [(one["round"], one["n"], one["working"]) for one in told[1]["cohorts"]] == [(1, 2, 1), (2, 1, 1)]
    shown = browser("researcher").get(f"/runs/{later.pk}/tricks").content.decode()
    assert "works no more" in shown and "still works" in shown and "100 % when round 1 found it" in shown
    assert f'href="/runs/{run.pk}/tricks"' in shown and "found in round 1" in shown
    # What somebody calls fair is no trick, whatever round found it.
    services.mark(later, ATTACK.id, "fair", account("researcher"))
    told = api().get(f"{V1}/runs/{later.pk}/tricks/rounds").json()
    assert (told[0]["found"], told[0]["still"], told[0]["fair"]) == (1, 0, 1)


def test_a_hunt_without_finds_and_one_that_has_not_ended_say_so(browser, tmp_home):
    run, _ = hunt_run(found=())
    assert "No trick works." in browser("researcher").get(f"/runs/{run.pk}/tricks").content.decode()
    live = making.run("running", kind="hunt")
    assert "Nothing is found yet." in browser("researcher").get(f"/runs/{live.pk}/tricks").content.decode()


def test_a_damaged_file_is_told(browser, api, hunt):
    run, made = hunt
    (artifacts.local_path(made) / kept.FILE).write_text('{"tricks": [{"id": 1}]}')
    shown = browser("researcher").get(f"/runs/{run.pk}/tricks").content.decode()
    assert "is damaged" in shown
    assert api().get(f"{V1}/runs/{run.pk}/tricks").status_code == 422


def test_runs_of_other_kinds_have_no_such_page_and_strangers_no_entry(browser, hunt):
    run, other = hunt[0], making.run("succeeded", kind="sft")
    assert browser("researcher").get(f"/runs/{other.pk}/tricks").status_code == 404
    for action in ("mark", "undo", "rankings"):
        assert browser("researcher").post(f"/runs/{other.pk}/tricks/{action}").status_code == 404
        assert browser("researcher").get(f"/runs/{run.pk}/tricks/{action}").status_code == 405
        assert browser(None).post(f"/runs/{run.pk}/tricks/{action}").status_code in (302, 403)
        assert browser("labeler").post(f"/runs/{run.pk}/tricks/{action}").status_code in (302, 403)
    assert browser(None).get(f"/runs/{run.pk}/tricks").status_code == 302
    assert browser("labeler").get(f"/runs/{run.pk}/tricks").status_code in (302, 403)
    assert not TrickMark.objects.exists()


def test_a_program_reads_marks_takes_back_and_teaches(api, hunt):
    run, program = hunt[0], api()
    told = program.get(f"{V1}/runs/{run.pk}/tricks?limit=1").json()
    assert told["count"] == 2 and len(told["items"]) == 1
    one = told["items"][0]
    assert (one["id"], one["share"], one["n"], one["works"], one["is_new"]) == (THE.id, 1.0, 3, True, True)
    assert one["text"] == "the the the the the" and one["score"] == 2.0 and one["verdict"] is None
    assert [fair["score"] for fair in one["fair"]] == [0.25, -0.5]
    assert program.post(f"{V1}/runs/{run.pk}/tricks/rankings").status_code == 409
    marked = program.post(f"{V1}/runs/{run.pk}/tricks/marks", {"trick": THE.id, "verdict": "nonsense"})
    assert marked.json() == {"trick": THE.id, "verdict": "nonsense"}
    again = program.post(f"{V1}/runs/{run.pk}/tricks/marks", {"trick": THE.id, "verdict": "nonsense"})
    assert again.status_code == 200 and TrickMark.objects.count() == 1
    assert program.get(f"{V1}/runs/{run.pk}/tricks?verdict=nonsense").json()["count"] == 1
    made = program.post(f"{V1}/runs/{run.pk}/tricks/rankings")
    assert made.status_code == 201 and made.json()["form"] == "rankings"
    assert program.post(f"{V1}/runs/{run.pk}/tricks/undo").json() == {"trick": THE.id, "verdict": None}
    assert program.post(f"{V1}/runs/{run.pk}/tricks/undo").status_code == 409
    other = making.run("succeeded", kind="sft")
    assert program.get(f"{V1}/runs/{other.pk}/tricks").json() == {"items": [], "count": 0}
    assert program.get(f"{V1}/runs/{other.pk}/tricks/rounds").json() == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"trick": THE.id}, 422),
        ({"trick": THE.id, "verdict": "so-so"}, 422),
        ({"trick": "nobody", "verdict": "fair"}, 422),
        ({"trick": THE.id, "verdict": "fair", "more": 1}, 422),
    ],
)
def test_the_api_names_what_it_cannot_read(api, hunt, body, status):
    answer = api().post(f"{V1}/runs/{hunt[0].pk}/tricks/marks", body)
    assert answer.status_code == status and answer.json()["errors"][0]["field"]
    assert not TrickMark.objects.exists()


def test_the_api_is_closed_to_strangers_and_labelers(api, hunt):
    run = hunt[0]
    for program, status in ((api(None), 401), (api("labeler"), 403)):
        assert program.get(f"{V1}/runs/{run.pk}/tricks").status_code == status
        assert program.get(f"{V1}/runs/{run.pk}/tricks/rounds").status_code == status
        for action in ("marks", "undo", "rankings"):
            assert program.post(f"{V1}/runs/{run.pk}/tricks/{action}").status_code == status
    assert api().get(f"{V1}/runs/{run.pk + 1}/tricks").status_code == 404
    assert api().get(f"{V1}/runs/{run.pk}/tricks?kind=magic").status_code == 422
