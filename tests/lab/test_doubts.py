"""Reward models are asked which of a project's groups are uncertain: the run, its scores in the project, the button."""

import numpy as np
import pytest

from core_ml.artifact import Folder, Origin, Writer
from core_ml.feedback.disagreement import pair_spreads
from core_ml.feedback.reward_model import RewardModel
from core_ml.model import checkpoint
from lab.errors import Invalid
from lab.models import Project, Run, RunInput
from lab.queries import doubts
from lab.services import artifacts, claims
from lab.services import labeling as services
from tests.core_ml import models as small
from tests.lab import making
from worker.execution import execute

pytestmark = pytest.mark.django_db(transaction=True)
BUTTON = "which groups are uncertain</button>"
PROMPTS = ["count the red cars", "count the red cars!", "name a tall tree", "sing"]


@pytest.fixture(autouse=True)
def _nobody_is_woken(monkeypatch):
    monkeypatch.setattr("lab.services.wake.up", lambda run: True)


@pytest.fixture
def project(tmp_home):
    rows = [{"group_id": f"g{i}", "prompt": p, "completions": ["x", "y", "z"]} for i, p in enumerate(PROMPTS)]
    return services.create_project("helpful", making.dataset("rollouts", rows), next_group="uncertain")


def reward_model(name, n_members=1, seed=0):
    """A real one, of one member; its summary says how many it has."""
    run = making.run("succeeded", kind="reward", name=name)
    tokenizer = small.small_tokenizer()
    target = artifacts.out_dir(run) / "reward"
    writer = Writer(target, id=f"{run.uid}-reward", kind="checkpoint", role="reward", name=name, origin=Origin(recipe="reward", run=run.pk))  # fmt: skip
    checkpoint.save(small.small_model(tokenizer.vocab_size, seed, value_head=True), tokenizer, writer.path)
    writer.finish({"n_members": n_members})
    return artifacts.register(run, "reward")


def ended(project, scores, status="succeeded"):
    """A run that has scored the project's groups, as it leaves its output behind."""
    run = making.run(status, kind="uncertainty", name="asked")
    RunInput.objects.create(run=run, name="rollouts", artifact=project.source, position=0)
    rows = [
        {"group_id": name, "prompt": "p", "completions": ["x", "y"], "metadata": {"uncertainty": score}}
        for name, score in scores.items()
    ]
    target = artifacts.out_dir(run) / "rollouts"
    writer = Writer(target, id=f"{run.uid}-rollouts", kind="dataset", form="rollouts", name="asked", origin=Origin(recipe="uncertainty", run=run.pk))  # fmt: skip
    small.write_rows(writer.path / "rollouts.parquet", "rollouts", rows)
    writer.finish({})
    artifacts.register(run, "rollouts")
    return run


def scores(project):
    return {g.metadata["group_id"]: g.uncertainty for g in project.groups.all()}


def test_scores_of_groups_whose_ids_read_as_numbers_are_taken_too(tmp_home):
    rows = [{"group_id": id, "prompt": f"p {id}", "completions": ["x", "y"]} for id in ("140", "1e5")]
    project = services.create_project("numbered", making.dataset("rollouts", rows))
    ended(project, {"140": 0.4, "1e5": 0.2})
    services.take_scores()
    assert scores(project) == {"140": 0.4, "1e5": 0.2}


def test_the_scores_of_a_run_that_has_ended_are_taken_once_and_groups_change_their_turn(project, lea):
    run = ended(project, {"g0": 0.4, "g1": 0.3, "g2": 0.2, "unknown": 0.5})
    ended(project, {"g3": 0.5}, status="running")
    services.take_scores()
    assert scores(project) == {"g0": 0.4, "g1": 0.3, "g2": 0.2, "g3": None}
    assert Project.objects.get().scored_by == run.pk
    got = []
    while group := services.next_group(project, lea):
        got.append(group.metadata["group_id"])
        services.hand_in(group, lea, [[0], [1], [2]])
    # The second asks nearly what the first one asked; what has no score comes last.
    assert got == ["g0", "g2", "g1", "g3"]
    # What is brought in afterwards stands, though the sweep comes by every other second.
    services.set_uncertainty(project, {"g0": 0.1})
    services.take_scores()
    assert scores(project)["g0"] == 0.1


def test_the_newest_run_counts_whichever_ends_last_and_every_project_over_its_rollouts_has_it(project):
    second = services.create_project("other", project.source)
    old, new = ended(project, {"g0": 0.1}, status="running"), ended(project, {"g0": 0.2})
    elsewhere = services.create_project("elsewhere", making.rollouts())
    services.take_scores()
    Run.objects.filter(pk=old.pk).update(status="succeeded")
    services.take_scores()
    assert scores(project)["g0"] == scores(second)["g0"] == 0.2
    assert Project.objects.get(pk=project.pk).scored_by == new.pk
    assert set(scores(elsewhere).values()) == {None}


def test_one_member_alone_cannot_be_asked_and_what_is_no_reward_model_neither(project, account):
    one, other, several = (reward_model(name, n) for name, n in (("a", 1), ("b", 1), ("c", 4)))
    for models in ([one.pk], [], ["nothing"], [project.source_id, one.pk]):
        with pytest.raises(Invalid):
            services.ask(project, models)
    assert not Run.objects.filter(kind="uncertainty").exists()
    boss = account("researcher", "boss")
    for models in ([one.pk, other.pk], [several.pk]):
        run = services.ask(project, models, boss)
        assert (run.kind, run.status, run.created_by) == ("uncertainty", "queued", boss)
        assert [taken.artifact_id for taken in run.inputs.filter(name="reward")] == models


def test_a_researcher_asks_by_a_button_and_nobody_else(browser, project):
    page, address = f"/labeling/{project.pk}", f"/labeling/{project.pk}/uncertain"
    told = browser().get(page).content.decode()
    assert BUTTON not in told and "There is no reward model to ask yet" in told
    one = reward_model("single <b>")
    told = browser().get(page).content.decode()
    assert BUTTON not in told and "alone it disagrees with nobody" in told
    several = reward_model("ensemble", 4)
    told = browser().get(page).content.decode()
    assert BUTTON in told and "single &lt;b&gt;" in told
    assert f'value="{several.pk}" checked' in told and f'value="{one.pk}">' in told
    assert browser(None).post(address, {"reward": several.pk})["Location"].startswith("/sign-in")
    assert browser("labeler").post(address, {"reward": several.pk}).status_code == 403
    assert browser().get(address).status_code == 405
    assert browser().post("/labeling/99999/uncertain", {"reward": several.pk}).status_code == 404
    for form in ({}, {"reward": one.pk}, {"reward": "x" * 5000}):
        answer = browser().post(address, form)
        assert answer["Location"] == f"{page}#uncertain"
    assert not Run.objects.filter(kind="uncertainty").exists()
    assert "Choose a reward model to ask." in browser().post(address, {}, follow=True).content.decode()
    assert browser().post(address, {"reward": several.pk})["Location"] == f"{page}#uncertain"
    run = Run.objects.get(kind="uncertainty")
    told = browser().get(page).content.decode()
    assert f"/runs/{run.pk}" in told and BUTTON not in told


def test_the_page_tells_who_was_asked_and_that_a_newer_model_has_come(browser, project, account):
    several = reward_model("ensemble", 4)
    run = ended(project, {"g0": 0.4, "g1": 0.3})
    RunInput.objects.create(run=run, name="reward", artifact=several, position=0)
    Run.objects.filter(pk=run.pk).update(summary={"uncertainty": 0.11, "uncertainty_most": 0.22, "n_members": 4})  # fmt: skip
    page = f"/labeling/{project.pk}"
    assert "its scores are being stored" in browser().get(page).content.decode()
    services.take_scores()
    told = browser().get(page).content.decode()
    assert "2 of 4 groups have a score" in told and "ensemble" in told and "22.0 %" in told
    assert BUTTON in told and "ask again" not in told and "handed out at random" not in told
    services.change(project, next_group="random")
    assert "handed out at random" in browser().get(page).content.decode()
    lea = account("labeler", "lea")
    making.rank(project, lea, [[0], [1], [2]])
    newer = reward_model("newer", 3)
    RunInput.objects.create(run=newer.run, name="rankings", artifact=services.export(project), position=0)
    told = browser().get(page).content.decode()
    assert "has learned from this project since: ask again" in told
    assert doubts.of(Project.objects.get())["chosen"] == [newer.pk]
    failed = ended(project, {}, status="failed")
    Run.objects.filter(pk=failed.pk).update(error={"message": "no <room>"})
    assert "no &lt;room&gt;" in browser().get(page).content.decode()


def test_the_whole_way_from_the_button_to_the_order_of_groups(browser, project, lea):
    models = [reward_model(name, seed=seed) for seed, name in enumerate(("a", "b"))]
    browser().post(f"/labeling/{project.pk}/uncertain", {"reward": [one.pk for one in models]})
    run = Run.objects.get(kind="uncertainty")
    execute(claims.claim_run(run.pk, "test"), lambda: False)
    run.refresh_from_db()
    assert run.status == "succeeded", run.error
    services.take_scores()
    # As the models say it, one group after the other.
    judges = [RewardModel.load(Folder(artifacts.local_path(one))) for one in models]
    for group in project.groups.all():
        prompts, texts = [group.prompt] * 3, sorted(group.completions)
        raw = np.array([np.array(judge.score(prompts, texts)) * judge.std for judge in judges])
        spreads = [value for *_, value in pair_spreads(raw, texts)]
        assert group.uncertainty == pytest.approx(sum(spreads) / 3, abs=1e-4) and group.uncertainty > 0
    most = max(project.groups.all(), key=lambda group: group.uncertainty)
    assert services.next_group(project, lea) == most
    assert "4 of 4 groups have a score" in browser().get(f"/labeling/{project.pk}").content.decode()
