"""The labelers' order beside the reward model's: on the project page, and over the API."""

import re
from pathlib import Path

import pytest
from django.conf import settings

from core_ml import artifact
from core_ml.feedback import orders as kept
from core_ml.feedback.pairs import Group, Ranking
from lab.models import RunInput
from lab.pages.orders import draw
from lab.queries import orders
from lab.services import artifacts
from lab.services import labeling as services
from tests.lab import making

pytestmark = pytest.mark.django_db
ATTACK = "<img src=x onerror=alert(1)>"
SCORES = {"g0": [4, 3, 2, 1], "g1": [1, 2, 3, 4], "g2": [4, 3, 1, 2]}


@pytest.fixture
def project(tmp_home, account):
    """Three groups, ranked 1 2 3 4 by a person, and an export of them."""
    rows = [{"group_id": f"g{i}", "prompt": f"prompt {i} {ATTACK}", "completions": [f"{ATTACK} {n}" for n in making.FOUR]} for i in range(3)]  # fmt: skip
    project = services.create_project("helpful", making.dataset("rollouts", rows), "Best first.")
    lea = account("labeler", "lea")
    for _ in range(3):
        services.hand_in(services.next_group(project, lea), lea, [[0], [1], [2], [3]])
    services.export(project)
    return project


def reward_model(project, scores=SCORES, keeps=True, name="judge", dataset=None):
    """A run that took the export, or a dataset, with the file that a reward run writes."""
    run = making.run("succeeded", kind="reward", name=name)
    RunInput.objects.create(
        run=run, name="rankings", artifact=dataset or orders.exports(project).first(), position=0
    )
    target = Path(settings.ARTIFACT_ROOT) / run.uid / "checkpoint"
    origin = artifact.Origin(recipe="reward", run=run.pk, name=name)
    writer = artifact.Writer(target, id=f"{run.uid}-checkpoint", kind="checkpoint", role="reward", name=name, origin=origin)  # fmt: skip
    (writer.path / "config.json").write_text("{}")
    if keeps:
        groups = [
            Group(
                id,
                "",
                tuple("abcd"[: len(own)]),
                [Ranking("lea", False, tuple((i,) for i in range(len(own))))],
            )
            for id, own in scores.items()
        ]
        kept.write(writer.path / kept.FILE, groups, list(scores.values()))
    writer.finish({})
    return artifacts.register(run, "checkpoint")


def test_the_page_shows_the_worst_disagreement_first_and_leads_on(browser, project):
    model = reward_model(project)
    page = browser().get(f"/labeling/{project.pk}").content.decode()
    assert "prompt 1" in page and "0 of 6 pairs agree" in page and "1 of 3, most disagreed first" in page
    # Wide apart: what people put first stands last at the model.
    assert "What people put at 1, the model puts at 4." in page
    following = re.search(r'href="([^"]+)" rel="next"', page)[1].replace("&amp;", "&")
    assert following == f"?model={model.pk}&group=2#orders"
    second = browser().get(f"/labeling/{project.pk}{following}").content.decode()
    assert "prompt 2" in second and "5 of 6 pairs agree" in second and 'rel="prev"' in second
    last = browser().get(f"/labeling/{project.pk}?group=99").content.decode()
    assert "3 of 3" in last and "6 of 6 pairs agree" in last and 'rel="next"' not in last


@pytest.mark.parametrize(
    "query", ["?group=0", "?group=-1", "?group=x", "?model=nobody", "?group=" + "9" * 40]
)
def test_an_address_that_makes_no_sense_shows_the_page_all_the_same(browser, project, query):
    reward_model(project)
    answer = browser().get(f"/labeling/{project.pk}{query}")
    assert answer.status_code == 200
    assert "of 3, most disagreed first" in answer.content.decode()


def test_scores_show_between_0_and_1_with_the_raw_one_and_a_way_to_correct_the_order(browser, project):
    model = reward_model(project, {"g0": [-2, -1, 0, 2]})
    model.summary = {"reward_mean": 0.5, "reward_std": 2.0}
    model.save(update_fields=["summary"])
    page = browser().get(f"/labeling/{project.pk}").content.decode()
    section = re.search(r'<section[^>]*id="orders".*?</section>', page, re.DOTALL)[0]
    # 1 / (1 + e^2), 1 / (1 + e), 1 / 2 and 1 / (1 + e^-2); raw 2 x - 2 + 0.5 and so on.
    shown = re.findall(r"score </span>([^<]+)<", section)
    assert shown == ["0.12", "0.27", "0.50", "0.88"]
    assert re.findall(r"raw ([^<]+)<", section) == ["−3.50", "−1.50", "0.50", "4.50"]
    # People's first stands three places lower at the model, their last three higher.
    assert section.count("3 lower") == section.count("3 higher") == 1
    group = project.groups.get(metadata__group_id="g0")
    address = f"/labeling/{project.pk}/groups/{group.pk}"
    assert f'href="{address}">Correct this</a>' in section
    correction = {f"place-{i}": str(4 - i) for i in range(4)}
    assert browser().post(address, correction).status_code == 302
    taught = [row["order"] for row in services.rows(project) if row["group_id"] == "g0"]
    assert taught == [[[3], [2], [1], [0]]]


def test_only_researchers_correct_an_order(browser, project):
    group = project.groups.first()
    address = f"/labeling/{project.pk}/groups/{group.pk}"
    assert browser("labeler").post(address, {"place-0": "1"}).status_code in (302, 403)
    assert browser().post(address, {"place-0": "1"}).status_code == 422
    group.refresh_from_db()
    assert group.settled is None


def test_texts_are_escaped_and_the_drawing_has_no_inline_style(browser, project):
    reward_model(project, name=ATTACK)
    page = browser().get(f"/labeling/{project.pk}").content.decode()
    section = re.search(r'<section[^>]*id="orders".*?</section>', page, re.DOTALL)[0]
    assert ATTACK not in page
    assert (
        section.count("&lt;img src=x onerror=alert(1)&gt;") == 6
    )  # the model's name, the prompt, four answers
    assert "style=" not in section


def test_without_a_reward_model_there_is_no_such_part_and_one_that_kept_nothing_says_so(browser, project):
    assert 'id="orders"' not in browser().get(f"/labeling/{project.pk}").content.decode()
    reward_model(project, keeps=False)
    assert "kept none of its held-out groups" in browser().get(f"/labeling/{project.pk}").content.decode()


def test_scores_of_another_number_of_answers_are_told_and_not_drawn(browser, api, project):
    reward_model(project, {"g1": [1, 2, 3, 4, 5]})
    page = browser().get(f"/labeling/{project.pk}").content.decode()
    assert "does not fit group" in page and "pairs agree" not in page
    assert api().get(f"/api/v1/labeling/projects/{project.pk}/orders").status_code in (409, 422)


def test_groups_of_other_projects_are_passed_over(project):
    found = orders.of(project, reward_model(project, SCORES | {"elsewhere": [1, 2, 3, 4]}), limit=9)
    assert found.count == len(found.items) == 3


def test_ids_that_read_as_numbers_are_found_as_the_texts_that_they_are(tmp_home, account):
    ids = ["140", "1e5", "007", "null", "true"]
    rows = [{"group_id": id, "prompt": f"prompt {id}", "completions": making.FOUR} for id in ids]
    project = services.create_project("numbered", making.dataset("rollouts", rows), "", 1)
    making.rank(project, account("labeler", "lea"))
    services.export(project)
    found = orders.of(project, reward_model(project, {key: [1, 2, 3, 4] for key in ids}), limit=9)
    assert {item["prompt"] for item in found.items} == {f"prompt {id}" for id in ids}


def test_lines_cross_only_where_the_model_turns_a_pair_around():
    item = {"labelers_order": [[0, 1], [2], [3]], "model_order": [[1], [0], [3], [2]], "scores": [3, 4, 1, 2], "completions": "abcd"}  # fmt: skip
    drawn = draw(item)
    ends = [[int(y) for y in re.findall(r"(?<= )\d+", line["path"])] for line in drawn["lines"]]
    left, right = [one[0] for one in ends], [one[-1] for one in ends]
    crossings = [
        (a, b) for a in range(4) for b in range(a) if (left[a] - left[b]) * (right[a] - right[b]) < 0
    ]
    # 0 and 1 are tied for people, so that only 2 and 3 cross; ties share a number.
    assert len(crossings) == 1
    assert [one["place"] for one in drawn["people"]] == [1, 1, 3, 4]
    assert [one["place"] for one in drawn["model"]] == [1, 2, 3, 4]


def test_what_nobody_placed_stands_at_the_model_alone():
    item = {
        "labelers_order": [[2], [0]],
        "model_order": [[1], [2], [0]],
        "scores": [1, 3, 2],
        "completions": "abc",
    }
    drawn = draw(item)
    assert (len(drawn["people"]), len(drawn["model"]), len(drawn["lines"])) == (2, 3, 2)


def test_a_program_reads_the_same_over_the_api(api, project):
    address = f"/api/v1/labeling/projects/{project.pk}/orders"
    assert api().get(address).json() == {"items": [], "count": 0, "model": None}
    older, newer = reward_model(project), reward_model(project, {"g0": [1, 2, 4, 3]})
    answer = api().get(address).json()
    assert (answer["model"], answer["count"]) == (newer.pk, 1)
    answer = api().get(f"{address}?model={older.pk}&limit=1&offset=1").json()
    assert (answer["model"], answer["count"], len(answer["items"])) == (older.pk, 3, 1)
    item = answer["items"][0]
    assert (item["agree"], item["pairs"], item["simulated"]) == (5, 6, 0)
    assert (item["labelers_order"], item["model_order"]) == ([[0], [1], [2], [3]], [[0], [1], [3], [2]])
    assert item["prompt"].startswith("prompt 2") and len(item["completions"]) == len(item["scores"]) == 4


def imported(scores=SCORES, ids=None):
    """A reward model of an imported set of rankings, which belongs to no project."""
    rows = [{"group_id": f"g{i}", "prompt": f"prompt {i} {ATTACK}", "completions": [f"{ATTACK} {n}" for n in making.FOUR], "order": making.BEST_FIRST, "labeler": "GPT-4", "simulated": True} for i in range(3)]  # fmt: skip
    dataset = making.dataset("rankings", rows, "0000eeee")
    model = reward_model(None, scores, dataset=dataset)
    return dataset, model


def test_a_model_of_an_imported_set_has_the_page_too_from_its_run_and_its_checkpoint(browser, tmp_home):
    dataset, model = imported()
    model.summary = {"reward_mean": 0.5, "reward_std": 2.0}
    model.save(update_fields=["summary"])
    head = browser()
    link = f'href="/checkpoints/{model.pk}/orders"'
    assert link in head.get(f"/checkpoints/{model.pk}").content.decode()
    assert f'href="/runs/{model.run_id}/orders"' in head.get(f"/runs/{model.run_id}").content.decode()
    for address in (f"/checkpoints/{model.pk}/orders", f"/runs/{model.run_id}/orders"):
        page = head.get(address).content.decode()
        assert "prompt 1" in page and "0 of 6 pairs agree" in page and "1 of 3, most disagreed first" in page
        # The raw score of 4 is 4 · 2 + 0.5.
        assert "0.98" in page and "raw 8.50" in page
        assert "Correct this" in page and f'name="dataset" value="{dataset.pk}"' in page
        assert f'href="/datasets/{dataset.pk}"' in page and ATTACK not in page
        second = head.get(f"{address}?group=2").content.decode()
        assert "prompt 2" in second and 'rel="prev"' in second
    assert head.get("/checkpoints/nobody/orders").status_code == 404
    assert browser("labeler").get(f"/checkpoints/{model.pk}/orders").status_code in (302, 403)


def test_a_group_of_a_project_is_corrected_from_the_checkpoints_page(browser, project):
    model = reward_model(project)
    group = project.groups.get(metadata__group_id="g1")
    page = browser().get(f"/checkpoints/{model.pk}/orders").content.decode()
    assert f'href="/labeling/{project.pk}/groups/{group.pk}">Correct this</a>' in page


def test_programs_read_the_orders_of_any_reward_model(api, project):
    _, model = imported({"g0": [4, 3, 2, 1], "gone": [1, 2]})
    address = f"/api/v1/checkpoints/{model.pk}/orders"
    told = api().get(address).json()
    assert told["count"] == 2
    gone, known = told["items"]
    assert (gone["group_id"], gone["prompt"], gone["dataset"]) == ("gone", None, None)
    assert (known["task"], known["project"], known["agree"], known["pairs"]) == (None, None, 6, 6)
    assert known["shares"][0] == pytest.approx(0.982, abs=1e-3) and len(known["completions"]) == 4
    assert len(api().get(f"{address}?limit=1&offset=1").json()["items"]) == 1
    own = api().get(f"/api/v1/checkpoints/{reward_model(project).pk}/orders").json()["items"][0]
    assert own["project"] == project.pk and own["prompt"].startswith("prompt 1")
    assert api("labeler").get(address).status_code == 403
    assert api(None).get(address).status_code == 401
    assert api().get("/api/v1/checkpoints/nobody/orders").status_code == 404


def test_of_two_datasets_that_name_a_group_alike_the_later_ones_has_its_number(tmp_home):
    _, model = imported({"g0": [4, 3, 2, 1], "g0/2": [1, 2]})
    other = making.dataset("rankings", [{"group_id": "g0", "prompt": "later", "completions": ["x", "y"], "order": [[0], [1]], "labeler": "lea", "simulated": False}], "0000ffff")  # fmt: skip
    RunInput.objects.create(run=model.run, name="rankings", artifact=other, position=1)
    prompts = {one["prompt"].split()[0] for one in orders.of_model(model, limit=9).items}
    assert prompts == {"prompt", "later"}


def test_the_api_refuses_labelers_strangers_and_models_that_learned_elsewhere(api, project):
    address = f"/api/v1/labeling/projects/{project.pk}/orders"
    assert api("labeler").get(address).status_code == 403
    assert api(None).get(address).status_code == 401
    for model in ("nobody", "../etc", "a" * 81):
        answer = api().get(f"{address}?model={model}")
        assert answer.status_code == 422
        assert "model" in answer.json()["errors"][0]["field"]
    assert api().get(f"{address}?limit=0").status_code == 422
    assert api().get("/api/v1/labeling/projects/999999/orders").status_code == 404
