"""The checkpoints' pages: the network to scale, the report card against the model before, ancestors and files."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from django.utils import timezone

from core_ml.artifact import Folder, Origin, Writer
from core_ml.tasks.rows import SCHEMAS
from lab.models import RunInput
from lab.pages import lineage
from lab.queries import report_cards
from lab.services import artifacts
from tests.core_ml import small
from tests.lab import making

pytestmark = pytest.mark.django_db


@pytest.fixture
def base(tmp_home):
    run = making.run("succeeded", uid="11111111", name="pre", created=timezone.now())
    small.checkpoint_artifact(artifacts.out_dir(run) / "checkpoint")
    return artifacts.register(run, "checkpoint")


def examined(base, second, correct: dict[str, list[bool]], rewards: float | None = None):
    """A report of both models on as many problems, as the recipe writes it."""
    run = making.run("succeeded", kind="evaluate", uid="22222222", name="exam", summary={"models": ["base", "chat"], "n_problems": 10, "bits_per_byte_base": 2.0, "bits_per_byte_chat": 2.5, "findings": ["The chat model solves more."]})  # fmt: skip
    for position, one in enumerate((base, second)):
        RunInput.objects.create(run=run, name="checkpoints", position=position, artifact=one)
    writer = Writer(artifacts.out_dir(run) / "report", id="22222222-report", kind="dataset", form="rollouts", name="exam", origin=Origin(recipe="evaluate"))  # fmt: skip
    rows = [
        {
            "group_id": f"{model}-{i}",
            "prompt": f"p{i}",
            "completions": ["x"],
            "logprobs": [[-1.0] * (5 if model == "base" else 9)],
            "ended": [True],
            "metadata": json.dumps({"model": model, "task": "add", "modes": ["greedy"], "correct": [right], "liked": [right], "rewards": [rewards]}),
        }
        for model, found in correct.items()
        for i, right in enumerate(found)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, SCHEMAS["rollouts"]), writer.path / "rollouts.parquet")
    writer.finish({})
    artifacts.register(run, "report")
    return run


@pytest.fixture
def chat(base):
    run = making.run("succeeded", kind="sft", uid="33333333", name="chatty")
    RunInput.objects.create(run=run, name="checkpoint", artifact=base)
    target = artifacts.out_dir(run) / "checkpoint"
    writer = Writer(target, id="33333333-checkpoint", kind="checkpoint", role="chat", name="chatty", origin=Origin(recipe="sft"))  # fmt: skip
    for path in Folder(artifacts.local_path(base)).files():
        (writer.path / path.name).write_bytes(path.read_bytes())
    writer.finish({"n_parameters": 1})
    return artifacts.register(run, "checkpoint")


def test_the_network_is_drawn_to_scale_and_its_parts_add_up(base):
    drawn = report_cards.network(artifacts.local_path(base))
    config = drawn["config"]
    assert sum(part["n"] for part in drawn["parts"]) == drawn["n_parameters"] == config.n_parameters
    assert sum(part["share"] for part in drawn["parts"]) == pytest.approx(1)
    widths = {part["title"].split(",")[0]: part["width"] for row in drawn["rows"] for part in row["parts"]}
    # One key-value head of two: k is half of q.
    assert widths["k"] == pytest.approx(widths["q"] / 2, abs=0.1)


def test_the_page_shows_shapes_files_and_what_it_stands_on(browser, chat):
    page = browser().get(f"/checkpoints/{chat.pk}").content.decode()
    assert "model.safetensors" in page
    assert f"/api/v1/artifacts/{chat.pk}/files/config.json" in page
    assert "No run has examined this checkpoint yet" in page
    assert [item["name"] for item in lineage.chain(chat, "this")] == ["pre", "this"]


def test_the_report_card_is_against_the_model_before_and_bold_only_where_sure(browser, base, chat):
    examined(base, chat, {"base": [False] * 10, "chat": [True] * 9 + [False]})
    card = report_cards.of(chat)
    scores = {(one.title, one.note): one for _, group in card.groups for one in group}
    solved = scores["Problems solved", "greedy"]
    assert (solved.this.value, solved.before.value, solved.change, solved.sure) == (0.9, 0.0, 0.9, True)
    # Wilson's interval of 9 of 10, by hand: (0.9 + 0.192 ± 0.247) / 1.384.
    assert solved.this.low == pytest.approx(0.596, abs=1e-3)
    assert scores["Tokens in an answer", "greedy"].change == pytest.approx(4)
    assert scores["Bits per byte", "lower is better"].change == pytest.approx(0.5)
    page = browser().get(f"/checkpoints/{chat.pk}").content.decode()
    assert "The chat model solves more." in page
    assert report_cards.of(base).before == ""


def test_a_difference_within_the_noise_is_not_bold(base, chat):
    examined(base, chat, {"base": [True, False] * 5, "chat": [True] * 6 + [False] * 4})
    scores = {one.title: one for _, group in report_cards.of(chat).groups for one in group}
    assert scores["Problems solved"].change == pytest.approx(0.1)
    assert not scores["Problems solved"].sure


def test_a_damaged_checkpoint_is_told(browser, base):
    (artifacts.local_path(base) / "config.json").write_text('{"architecture": "other"}')
    answer = browser().get(f"/checkpoints/{base.pk}")
    assert answer.status_code == 200
    assert "damaged" in answer.content.decode()


def test_the_list_is_by_role(browser, base, chat):
    assert "chatty" not in browser().get("/checkpoints?role=base").content.decode()
    assert "chatty" in browser().get("/checkpoints?role=nonsense").content.decode()


def test_names_are_text(browser, base):
    base.name = "<i>x</i>"
    base.save()
    for path in ("/checkpoints", f"/checkpoints/{base.pk}", "/playground"):
        assert "<i>x</i>" not in browser().get(path).content.decode()


def test_strangers_labelers_and_unknown_ids(browser, tmp_home):
    assert browser(None).get("/checkpoints")["Location"].startswith("/sign-in")
    assert browser("labeler").get("/checkpoints").status_code == 403
    assert browser().get("/checkpoints/nothing").status_code == 404


def test_a_score_without_a_parent_is_drawn_alone():
    from django.template import Context, Template

    template = Template("{% interval one.value one.low one.high reference=one.before.value %}")
    drawn = template.render(Context({"one": {"value": 0.5, "low": 0.4, "high": 0.6, "before": None}}))
    assert "dot-model" in drawn and "dot-reference" not in drawn
