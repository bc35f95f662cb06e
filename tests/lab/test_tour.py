"""A tour is advanced step by step, each once, through both turns of feedback."""

import re

import pytest
from django.utils import timezone

from core_ml import recipes
from lab.models import Artifact, Project, Ranking, Run, Tour
from lab.models.run import FAILED, QUEUED, SUCCEEDED
from lab.queries.tour import STAGES, table
from lab.services import labeling, runs, waiting
from lab.services import tour as tours
from tests.lab import making
from worker import labeler

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("tmp_home")]


@pytest.fixture
def tour():
    return tours.start({"small": True})


def end(run: Run) -> None:
    """A run as if it had succeeded, with everything that it makes; what waited for it gets its inputs."""
    for output, made in recipes.get(run.kind).makes.items():
        if run.kind == "rollouts":
            making.rollouts(2, uid=run.uid)
            Artifact.objects.filter(pk=f"{run.uid}-rollouts").update(run=run, output=output)
            continue
        Artifact.objects.create(
            id=f"{run.uid}-{output}",
            kind=made.kind,
            form=made.what or "" if made.kind == "dataset" else "",
            role=made.what or "" if made.kind == "checkpoint" else "",
            name=run.name,
            path=f"{run.uid}/{output}",
            size=1,
            run=run,
            output=output,
            created=timezone.now(),
        )
    Run.objects.filter(pk=run.pk).update(status=SUCCEEDED, started=timezone.now(), ended=timezone.now())
    waiting.settle()


def end_all(tour: Tour) -> None:
    for run in tour.runs.filter(status=QUEUED).order_by("pk"):
        end(run)


def asked(tour: Tour) -> Project:
    """The project that waits for rankings now."""
    tour.refresh_from_db()
    project = tours.ranked_now(tour)
    assert project is not None
    return project


def rank_all(project: Project) -> None:
    for _ in range(project.groups.count()):
        making.rank(project, tours.labeler())


def at(tour: Tour) -> tuple[str, str]:
    tour.refresh_from_db()
    return tour.status, tour.stage


def to_the_second_ranking(tour: Tour) -> Project:
    """Bring a tour to where the second project has just been made."""
    end_all(tour)
    tours.advance()
    rank_all(tour.projects.get())
    tours.advance()
    end_all(tour)
    tours.advance()
    assert at(tour) == ("running", "ranking 2")
    return asked(tour)


def taken(run: Run) -> dict[str, list[str]]:
    """By input, the names of the runs or of the project whose outputs a run takes, as a lab's first tour has them."""
    found: dict[str, list[str]] = {}
    for given in run.inputs.select_related("artifact"):
        found.setdefault(given.name, []).append(given.artifact.name)
    for name, references in run.pending.items():
        found[name] = [
            Run.objects.get(pk=one["run"]).name
            if "run" in one
            else Artifact.objects.get(pk=one["artifact"]).name
            for one in references
        ]
    # Later ones are numbered, and a database may have counted tours that were never kept.
    return {name: [re.sub(r"^tour\d+-", "tour-", one) for one in names] for name, names in found.items()}


def test_both_turns_are_gone_through_and_each_step_is_made_once(tour):
    for _ in range(2):
        tours.advance()
    assert at(tour) == ("running", "made") and tour.runs.count() == 6
    end_all(tour)
    seen = []
    for turn, (n_runs, stage) in enumerate(((9, "aligning"), (12, "aligning 2")), 1):
        for _ in range(2):  # two sweeps at a time
            tours.advance()
        assert tour.projects.count() == turn
        seen.append(at(tour)[1])
        rank_all(asked(tour))
        for _ in range(2):
            tours.advance()
        assert at(tour) == ("running", stage) and tour.runs.count() == n_runs
        end_all(tour)
    assert seen == ["ranking", "ranking 2"]
    tours.advance()
    assert at(tour)[0] == "succeeded"
    assert list(tour.made()) == [name for name in STAGES if not name.startswith("rankings")]
    assert [row.status for row in table(tour)] == ["succeeded"] * 14


def test_the_second_turn_learns_from_all_rankings_and_stays_near_the_chat_model(tour):
    second = to_the_second_ranking(tour)
    rank_all(second)
    tours.advance()
    made = tour.made()
    assert taken(made["rollouts 2"]) == {"checkpoint": ["tour-rlhf"], "problems": ["tour-conversations"]}
    assert taken(made["reward 2"]) == {
        "checkpoint": ["tour-sft"],
        "rankings": [tours.PROJECT_NAMES[1], tours.PROJECT_NAMES[2]],
        "earlier": ["tour-reward"],
    }
    assert taken(made["rlhf 2"]) == {
        "checkpoint": ["tour-rlhf"],
        "reference": ["tour-sft"],
        "reward": ["tour-reward-2"],
        "problems": ["tour-conversations"],
    }
    assert taken(made["evaluate"])["checkpoints"] == ["tour-pretrain", "tour-sft", "tour-rlhf", "tour-rlhf-2"]
    assert taken(made["evaluate"])["reward"] == ["tour-reward", "tour-reward-2"]


def test_the_second_turn_asks_about_prompts_that_the_first_did_not(tour):
    to_the_second_ranking(tour)
    first, second = tour.made()["rollouts"].config, tour.made()["rollouts 2"].config
    assert second["seed"] == first["seed"]
    assert (first["skip_prompts"], second["skip_prompts"]) == (0, first["n_prompts"])


def test_a_full_tour_does_less_the_second_time_and_asks_for_no_more_prompts_than_there_are():
    tour = tours.start({"seed": 3})
    to_the_second_ranking(tour)
    rank_all(asked(tour))
    tours.advance()
    made = tour.made()
    assert {run.config["seed"] for run in made.values() if "seed" in run.config and run.kind != "crawl"} == {
        3
    }
    assert made["rlhf 2"].config["steps"] < made["rlhf"].config["steps"]
    second = made["rollouts 2"].config
    assert second["n_prompts"] < made["rollouts"].config["n_prompts"]
    assert second["skip_prompts"] + second["n_prompts"] <= made["conversations"].config["n_problems"]


def test_the_simulated_labeler_is_wanted_in_both_turns_and_at_once(tour):
    assert labeler.wanted() is None
    end_all(tour)
    tours.advance()
    assert labeler.wanted() == tour
    Tour.objects.update(labeler_beat=timezone.now())
    assert labeler.wanted() is None
    rank_all(asked(tour))
    tours.advance()
    assert labeler.wanted() is None
    end_all(tour)
    Tour.objects.update(labeler_beat=timezone.now())  # the last word of the first turn's
    tours.advance()
    assert labeler.wanted() == tour


def test_a_failure_in_the_second_turn_ends_the_tour_and_resuming_goes_on_there(tour):
    rank_all(to_the_second_ranking(tour))
    tours.advance()
    failed = tour.made()["rlhf 2"]
    Run.objects.filter(pk=failed.pk).update(status=FAILED, error={"message": "out of memory"})
    tours.advance()
    assert at(tour)[0] == "failed"
    assert tour.error == f"#{failed.pk} {failed.name} failed: out of memory"
    runs.resume(failed)
    assert at(tour) == ("running", "aligning 2")
    end_all(tour)
    tours.advance()
    assert at(tour)[0] == "succeeded"


def test_a_tour_that_is_stopped_while_people_rank_makes_nothing_more(tour):
    project = to_the_second_ranking(tour)
    tours.cancel(tour)
    rank_all(project)
    tours.advance()
    assert at(tour) == ("cancelled", "ranking 2") and tour.runs.count() == 9


def test_a_closed_project_lets_the_tour_go_on_with_what_was_ranked(tour):
    project = to_the_second_ranking(tour)
    making.rank(project, tours.labeler())
    tours.advance()
    assert at(tour)[1] == "ranking 2"

    def told() -> tuple[str, str]:
        return next((row.status, row.made) for row in table(tour) if row.stage == "rankings 2")

    assert told() == ("running", "1 of 2 groups ranked")
    labeling.close(project)
    tours.advance()
    assert at(tour)[1] == "aligning 2"
    assert told() == ("succeeded", "1 of 2 groups ranked")
    assert Ranking.objects.filter(group__project=project).count() == 1


def test_people_who_have_ranked_everything_are_not_said_to_be_at_it(tour, browser):
    to_the_second_ranking(tour)
    page = browser().get(f"/tour/{tour.pk}").content.decode()
    assert re.findall(r'class="stone people (running)?', page) == ["", "running"]
    # The chain of a run says the same, and that they are at it where each group wants a second ranking.
    for wanted, look in ((1, "people"), (2, "people running")):
        tour.projects.update(rankings_per_group=wanted)
        page = browser().get(f"/runs/{tour.made()['reward'].pk}").content.decode()
        assert re.findall(r'class="stone (people[^"]*)"', page) == [look]


def test_a_tour_of_one_turn_that_was_under_way_ends_as_it_was_begun(tour):
    """Begun before there was a second turn: its report card is queued behind its only practice."""
    end_all(tour)
    tours.advance()
    rank_all(asked(tour))
    tours.advance()
    tour.made()["rollouts 2"].delete()
    made = tour.made()
    runs.submit(
        kind="evaluate",
        preset="tiny",
        inputs={
            "checkpoints": [{"run": made[kind].pk, "output": "checkpoint"} for kind in ("sft", "rlhf")],
            "problems": {"run": made["conversations"].pk, "output": "held_out"},
        },
        tour=tour,
    )
    end_all(tour)
    tours.advance()
    assert at(tour)[0] == "succeeded"
    assert [row.stage for row in table(tour)] == [name for name in STAGES if not name.endswith("2")]
