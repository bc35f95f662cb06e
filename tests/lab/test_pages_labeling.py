"""The labelling pages: projects, progress and export for researchers; ranking for labelers, also without script."""

import json
import re

import pytest

from lab.models import Artifact, Project, Ranking
from lab.services import labeling as services
from tests.lab import making

pytestmark = pytest.mark.django_db
ATTACK = "<script>alert(1)</script>"


@pytest.fixture
def project(tmp_home):
    return services.create_project("helpful", making.rollouts(), "Best first.", 2)


def script(page: str):
    return json.loads(re.search(r'<script id="label-data" type="application/json">(.*?)</script>', page)[1])


def test_a_project_is_made_from_rollouts(browser, tmp_home):
    source = making.rollouts()
    form = {"source": source.pk, "name": "mine", "instructions": "a\r\nb", "rankings_per_group": "2"}
    answer = browser().post("/labeling", form)
    made = Project.objects.get()
    assert answer["Location"] == f"/labeling/{made.pk}"
    assert (made.instructions, made.rankings_per_group, made.groups.count()) == ("a\nb", 2, 3)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"source": "x"}, "source"), ({"rankings_per_group": "0"}, "per"), ({"rankings_per_group": "many"}, "per"), ({"name": "n" * 101}, "name")],
)  # fmt: skip
def test_a_field_at_fault_is_told_beside_it(browser, tmp_home, change, field):
    form = {"source": making.rollouts().pk, "name": ATTACK, "rankings_per_group": "1"} | change
    answer = browser().post("/labeling", form)
    page = answer.content.decode()
    assert answer.status_code == 422
    assert f'class="error" id="{field}-h"' in page
    assert ATTACK not in page
    assert not Project.objects.exists()


def test_a_labeler_sees_projects_and_ranks_one_group_after_the_other(browser, project):
    labeler = browser("labeler")
    assert labeler.get("/label")["Location"] == f"/label/{project.pk}"
    first = script(labeler.get(f"/label/{project.pk}").content.decode())["task"]
    again = script(labeler.get(f"/label/{project.pk}").content.decode())["task"]
    assert first["id"] == again["id"]
    # As the script does.
    body = {"order": [[1], [0, 2], [3]], "all_bad": False, "flags": {"3": ["untrue"]}, "seconds": 4.2}
    address = f"/api/v1/labeling/tasks/{first['id']}/ranking"
    assert labeler.post(address, json.dumps(body), content_type="application/json").status_code == 201
    address = f"/api/v1/labeling/projects/{project.pk}/next"
    following = labeler.post(address, "{}", content_type="application/json").json()
    assert following["id"] != first["id"]
    assert {"id", "prompt", "completions", "cut_off", "mine", "rankings", "wanted"} <= set(first) & set(
        following
    )
    assert Ranking.objects.get().order == [[1], [0, 2], [3]]


def test_the_instructions_hold_the_switch_of_single_keys(browser, project):
    page = browser("labeler").get(f"/label/{project.pk}").content.decode()
    dialog = re.search(r'<dialog[^>]*id="instructions".*?</dialog>', page, re.DOTALL)[0]
    assert re.search(r'<input type="checkbox" data-letters[ >]', dialog)
    assert "data-instructions" in page.replace(dialog, "")  # the button that opens it by pointer


def test_a_group_is_ranked_without_script(browser, project):
    labeler = browser("labeler")
    group = script(labeler.get(f"/label/{project.pk}").content.decode())["task"]["id"]
    form = {
        "group": group,
        "place-0": "2",
        "place-1": "1",
        "place-2": "2",
        "place-3": "4",
        "flags-3": ["nonsense"],
    }
    assert labeler.post(f"/label/{project.pk}", form | {"do": "hand"}).status_code == 302
    ranking = Ranking.objects.get()
    assert (ranking.order, ranking.flags) == ([[1], [0, 2], [3]], {"3": ["nonsense"]})
    labeler.post(f"/label/{project.pk}", {"do": "undo"})
    assert not Ranking.objects.exists()
    # The button alone: places that were given beside it do not matter.
    labeler.post(f"/label/{project.pk}", {"group": group, "do": "bad", "place-0": "2", "flags-1": ["untrue"]})
    assert Ranking.objects.get().flags == {"1": ["untrue"]}
    assert (Ranking.objects.get().all_bad, Ranking.objects.get().order) == (True, [[0, 1, 2, 3]])


def test_every_button_of_the_plain_form_is_sent_with_it(browser, account, project):
    labeler = browser("labeler", "lea")
    page = labeler.get(f"/label/{project.pk}").content.decode()
    form = re.search(r'<form method="post" id="rank-form".*?</form>', page, re.DOTALL)[0]
    acts = re.search(r'<div class="handin">.*?</div>\s*</form>', form, re.DOTALL)[0]
    buttons = re.findall(r"<button[^>]*>", acts)
    assert [re.search(r'name="do" value="(\w+)"', one)[1] for one in buttons] == [
        "undo",
        "bad",
        "skip",
        "hand",
    ]
    assert not any('type="button"' in one for one in buttons)
    for _ in range(3):
        group = services.next_group(project, account("labeler", "lea"))
        services.hand_in(group, account("labeler", "lea"), [[0], [1], [2], [3]])
    nothing = labeler.get(f"/label/{project.pk}").content.decode()
    assert re.search(r'<form method="post" class="row gap-t center">.*?name="do" value="undo"', nothing)


@pytest.mark.parametrize(
    "form",
    [{"place-0": "1"}, {"do": "bad", "group": "1e9"}, {"group": "999999"}, {"group": "abc"}, {"do": "undo"}],
)
def test_an_unfinished_form_is_told_and_stores_nothing(browser, project, form):
    labeler = browser("labeler")
    group = script(labeler.get(f"/label/{project.pk}").content.decode())["task"]["id"]
    answer = labeler.post(f"/label/{project.pk}", {"group": group, **form}, follow=True)
    assert 'class="toast"' in answer.content.decode()
    assert not Ranking.objects.exists()


def test_prompts_and_answers_are_text_and_what_labelers_must_not_know_is_not_there(browser, tmp_home):
    source = making.dataset("rollouts", [{"group_id": "g", "prompt": ATTACK, "completions": [ATTACK, "plain"], "task": "secret-task"}])  # fmt: skip
    project = services.create_project(ATTACK, source, ATTACK)
    for path in (f"/label/{project.pk}", "/label"):
        page = browser("labeler").get(path, follow=True).content.decode()
        assert ATTACK not in page
        assert "secret-task" not in page
    assert ATTACK not in browser().get(f"/labeling/{project.pk}").content.decode()


def test_nothing_left_and_closed_are_told(browser, account, project):
    for name in ("lea", "lou"):
        for _ in range(3):
            who = account("labeler", name)
            group = services.next_group(project, who)
            services.hand_in(group, who, [[0], [1], [2], [3]])
    assert "Nothing is left" in browser("labeler", "lea").get(f"/label/{project.pk}").content.decode()
    services.close(project)
    assert "This project is closed" in browser("labeler").get(f"/label/{project.pk}").content.decode()


def test_labelers_reach_only_their_own_pages(browser, project):
    for path in ("/labeling", f"/labeling/{project.pk}", "/datasets", "/playground", "/runs"):
        assert browser("labeler").get(path).status_code == 403
    assert browser(None).get("/label")["Location"].startswith("/sign-in")
    assert browser("labeler").post(f"/labeling/{project.pk}/export").status_code == 403


@pytest.fixture
def ranked(project, account):
    """Both rank three groups, once alike, once with the last two exchanged; the second one is simulated."""
    lea, robot = account("labeler", "lea"), account("labeler", "robot")
    robot.is_simulated = True
    robot.save()
    for labeler, order in ((lea, [[0], [1], [2], [3]]), (robot, [[0], [1], [3], [2]])):
        for _ in range(3):
            services.hand_in(services.next_group(project, labeler), labeler, order, seconds=10)
    return project


def test_progress_marks_the_simulated_and_does_not_claim_agreement_from_few_groups(browser, ranked):
    page = browser().get(f"/labeling/{ranked.pk}").content.decode()
    assert "3 of 6 rankings were made by a program" in page
    assert page.count('class="tag now">simulated</span>') == 2
    # Three groups say nothing about agreement; the page says so instead of a figure.
    assert page.count("too few to say") >= 3


def test_export_makes_a_dataset_and_the_page_links_it(browser, ranked):
    answer = browser().post(f"/labeling/{ranked.pk}/export")
    made = Artifact.objects.get(form="rankings")
    assert answer["Location"] == f"/datasets/{made.pk}"
    assert f"/datasets/{made.pk}" in browser().get(f"/labeling/{ranked.pk}").content.decode()
    page = browser().get("/datasets").content.decode()
    assert "3 simulated" in page


def test_an_export_of_nothing_is_told(browser, project):
    answer = browser().post(f"/labeling/{project.pk}/export", follow=True)
    assert "nothing to export" in answer.content.decode()


def test_a_project_is_closed_and_opened_again(browser, project):
    browser().post(f"/labeling/{project.pk}/close")
    assert Project.objects.get().closed
    browser().post(f"/labeling/{project.pk}/reopen")
    assert not Project.objects.get().closed
    assert browser().get(f"/labeling/{project.pk}/close").status_code == 405


@pytest.mark.parametrize("path", ["/labeling/999999", "/label/999999", "/label/99999999999999999999"])
def test_unknown_projects_are_not_found(browser, db, path):
    assert browser().get(path).status_code == 404


def test_settings_are_changed_on_the_projects_page(browser, project):
    form = {"name": "new", "instructions": "i", "flags": ["untrue"], "scale": "5", "asks_comment": "on", "rankings_per_group": "3",
            "gold_every": "4", "repeat_every": "0", "next_group": "uncertain", "example-0-prompt": ATTACK, "example-0-better": "b"}  # fmt: skip
    address = f"/labeling/{project.pk}/settings"
    assert browser().post(address, form).status_code == 302
    project.refresh_from_db()
    assert (project.name, project.flags, project.scale, project.asks_comment) == ("new", ["untrue"], 5, True)
    assert (project.asks_correction, project.next_group, project.gold_every) == (False, "uncertain", 4)
    assert [one["better"] for one in project.examples] == ["b"]
    wrong = browser().post(address, form | {"gold_every": "many", "rankings_per_group": "0"})
    assert wrong.status_code == 422
    assert wrong.content.decode().count('class="error') == 2
    page = browser("labeler").get(f"/label/{project.pk}").content.decode()
    assert "&lt;script&gt;alert(1)" in page and ATTACK not in page
    assert 'name="comment"' in page and 'name="correction"' not in page
    assert browser("labeler").post(address, form).status_code == 403
    assert browser(None).post(address, form)["Location"].startswith("/sign-in")


def test_a_group_in_dispute_is_settled_on_its_page(browser, ranked):
    group = ranked.groups.first()
    address = f"/labeling/{ranked.pk}/groups/{group.pk}"
    assert address in browser().get(f"/labeling/{ranked.pk}").content.decode()
    page = browser().get(address).content.decode()
    assert "lea" in page and "robot" in page
    form = {"place-0": "2", "place-1": "1", "place-2": "2", "place-3": "4", "note": "so"}
    assert browser("researcher", "boss").post(address, form | {"gold": "on"}).status_code == 302
    group.refresh_from_db()
    assert (group.settled, group.settled_note, group.gold) == ([[1], [0, 2], [3]], "so", [[1], [0, 2], [3]])
    assert browser().post(address, {"place-0": "1"}).status_code == 422
    assert browser().post(address, {"do": "unsettle"}).status_code == 302
    group.refresh_from_db()
    assert group.settled is None
    assert browser("labeler").get(address).status_code == 403
    assert browser(None).get(address)["Location"].startswith("/sign-in")
    assert browser().get(f"/labeling/{ranked.pk}/groups/999999").status_code == 404


def test_each_flag_has_its_agreement_and_alpha_with_their_intervals(browser, account, tmp_home):
    project = services.create_project("flagged", making.rollouts(5, ["yes", "no"]), "Best first.", 2)
    for name, flagged in (("lea", {"g0", "g1", "g2"}), ("lou", {"g0", "g1"})):
        labeler = account("labeler", name)
        for _ in range(5):
            group = services.next_group(project, labeler)
            flags = {"0": ["untrue"]} if group.metadata["group_id"] in flagged else {}
            services.hand_in(group, labeler, [[0], [1]], flags=flags)
    page = browser().get(f"/labeling/{project.pk}").content.decode()
    row = re.search(r'<tr><th scope="row">untrue</th>.*?</tr>', page, re.DOTALL)[0]
    # Of ten answers nine alike. Alpha: 5 of 20 judgements say untrue, so by chance 2 · 5 · 15 / (20 · 19) would differ,
    # and a tenth does: 1 - 0.1 / 0.3947.
    cells = re.findall(r'<td class="num">(.*?)</td>', row, re.DOTALL)
    assert cells[0].startswith("5<br>") and "25 %" in cells[0]
    assert cells[1].startswith("90 %") and re.search(r"\d+ % to \d+ %", cells[1])
    assert cells[2].startswith("0.75") and re.search(r"[−0-9.]+ to [0-9.]+", cells[2])
    few = services.create_project("few", making.rollouts(2, ["yes", "no"], "0000ffff"))
    assert "too few" in browser().get(f"/labeling/{few.pk}").content.decode()
