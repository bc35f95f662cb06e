"""Pages of runs: the table and its filter, one run in every state, the form, and the comparison."""

import json

import pytest
from django.utils import timezone

from lab.models import Figure, LogLine, Run, Sample
from lab.pages import forms
from lab.queries.headlines import headlines, say
from lab.queries.run_filter import filtered
from lab.services import metrics
from tests.lab.test_pages_home import EVIL, make_artifact, make_run

TABS = ("curves", "samples", "log", "config", "lineage", "files")


@pytest.fixture(autouse=True)
def _no_queue(monkeypatch):
    """Nobody works here: a submitted run stays in the queue."""
    from lab.services import wake

    monkeypatch.setattr(wake, "up", lambda run: None)


@pytest.fixture
def pretrain(db):
    run = make_run(
        "pretrain", "wren", preset="tiny", config={"steps": 40, "muon_lr": 0.03}, ended=timezone.now()
    )
    metrics.append(run, [(step, {"val_bits_per_byte": 4.0 - step / 20}) for step in range(0, 41, 10)])
    return run


def rows(found):
    return [run.pk for run in found[0]]


def test_the_filter_reads_kinds_numbers_and_words(db):
    slow = make_run("pretrain", "wren slow", config={"steps": 10, "muon_lr": 0.0001})
    fast = make_run("pretrain", "wren fast", config={"steps": 10, "muon_lr": 0.02}, status="failed")
    other = make_run("crawl", "pages")
    assert rows(filtered("kind:pretrain")) == [fast.pk, slow.pk]
    assert rows(filtered("muon_lr>5e-4")) == [fast.pk]
    assert rows(filtered("kind:pretrain status:failed")) == [fast.pk]
    assert rows(filtered("wren slow")) == [slow.pk]
    assert rows(filtered("stage:pages")) == [other.pk]
    assert rows(filtered(f"#{other.pk}")) == [other.pk]


@pytest.mark.parametrize(
    "words", ["password>1", "created_by__password>1", "config__steps__gt>1", "status:best", "steps>many"]
)
def test_the_filter_says_what_it_cannot_read_and_reaches_nothing_else(db, words):
    make_run("pretrain", config={"steps": 10})
    found, complaints = filtered(words)
    list(found)
    assert len(complaints) == 1 or not list(found)


def test_a_headline_says_how_good_it_became_or_why_not(pretrain):
    line = headlines([pretrain])[pretrain.pk]
    assert (line.last, line.best) == (2.0, 2.0)
    assert say(pretrain, line) == "2 bits per byte"
    waiting = make_run("sft", status="queued", pending={"checkpoint": [{"run": 7, "output": "checkpoint"}]})
    assert say(waiting) == "waits for 7"
    running = make_run("sft", status="running", progress={"step": 29, "total": 50, "seconds_left": 5220})
    assert say(running) == "58 %, 1 h 27 min left"
    assert say(make_run("sft", status="failed", error={"message": "the disk is full"})) == "the disk is full"


def test_the_table_shows_runs_and_escapes_their_names(browser, pretrain):
    make_run("crawl", EVIL, "failed", error={"message": EVIL})
    page = browser("researcher").get("/runs").content.decode()
    assert "wren" in page and "bits per byte" in page and 'class="spark"' in page
    assert "<img" not in page
    assert "No run fits" in browser("researcher").get("/runs?q=kind:nothing").content.decode()


def test_several_runs_are_deleted_and_brought_back(browser, pretrain):
    other = make_run("pretrain", ended=timezone.now())
    client = browser("researcher")
    page = client.post("/runs/several", {"ids": [pretrain.pk, other.pk], "do": "delete"}, follow=True)
    undo = f"/runs/restore?ids={other.pk},{pretrain.pk}"
    assert "2 runs deleted" in page.content.decode() and undo in page.content.decode()
    assert not Run.objects.filter(deleted=None).exists()
    client.post(undo)
    assert Run.objects.filter(deleted=None).count() == 2


def test_a_run_on_which_another_stands_is_not_deleted(browser, pretrain):
    weights = make_artifact(pretrain, "checkpoint", "checkpoint", "base")
    make_run("sft", takes=[("checkpoint", weights)])
    page = browser("researcher").post(f"/runs/{pretrain.pk}/delete", follow=True).content.decode()
    assert "took what run" in page
    assert Run.objects.get(pk=pretrain.pk).deleted is None


def test_picked_runs_lead_to_their_comparison(browser, pretrain):
    answer = browser("researcher").post("/runs/several", {"ids": [pretrain.pk, "x"], "do": "compare"})
    assert answer["Location"] == f"/runs/compare?ids={pretrain.pk}"


def test_every_tab_of_a_run_opens_with_what_models_wrote_as_text(browser, pretrain):
    Sample.objects.create(run=pretrain, step=1, prompt=EVIL, text=EVIL)
    LogLine.objects.create(run=pretrain, time=timezone.now(), message=EVIL)
    Figure.objects.create(
        run=pretrain,
        name="t",
        step=1,
        title=EVIL,
        finding=EVIL,
        content={"columns": [EVIL], "rows": [[EVIL]]},
    )
    Figure.objects.create(
        run=pretrain, name="p", step=1, title="p", content={"data": [{"name": "</script>" + EVIL}]}
    )
    make_artifact(
        pretrain,
        "checkpoint",
        "checkpoint",
        "base",
        manifest={"files": [{"path": EVIL, "size": 1, "sha256": "a" * 64}]},
    )
    Run.objects.filter(pk=pretrain.pk).update(name=EVIL, summary={"findings": [EVIL]})
    client = browser("researcher")
    for tab in ("", *TABS):
        answer = client.get(f"/runs/{pretrain.pk}/{tab}".rstrip("/"))
        page = answer.content.decode()
        assert answer.status_code == 200 and "<img" not in page, tab
        assert "script-src 'self'" in answer["Content-Security-Policy"]
    assert client.get(f"/runs/{pretrain.pk}/nonsense").status_code == 404


@pytest.mark.parametrize(
    "status", ["queued", "starting", "running", "interrupted", "succeeded", "failed", "cancelled"]
)
def test_a_run_opens_in_every_state(browser, db, status):
    run = make_run(
        "pretrain",
        status=status,
        progress={"step": 5, "total": 10, "unit": "steps"},
        error={"message": "It broke", "field": "config.muon_lr"} if status == "failed" else None,
    )
    page = browser("researcher").get(f"/runs/{run.pk}").content.decode()
    live = status in ("queued", "starting", "running", "interrupted")
    assert ("data-live" in page) == live
    assert ("What to try" in page) == (status == "failed")
    assert (f"/runs/{run.pk}/cancel" in page) == live
    if status in ("failed", "cancelled"):
        assert f"/runs/{run.pk}/resume" in page


def test_the_best_earlier_run_is_the_ghost_of_the_curve(browser, pretrain):
    worse = make_run("pretrain", "worse")
    metrics.append(worse, [(0, {"val_bits_per_byte": 9.0})])
    now = make_run("pretrain", "now", "running")
    metrics.append(now, [(0, {"val_bits_per_byte": 5.0})])
    page = browser("researcher").get(f"/runs/{now.pk}").content.decode()
    data = json.loads(
        page.partition('id="main-plot-data" type="application/json">')[2].partition("</script>")[0]
    )
    assert data["rival"]["run"] == pretrain.pk and data["curve"] == {"steps": [0], "values": [5.0]}


def test_a_run_is_stopped_resumed_and_renamed(browser, db):
    run = make_run("pretrain", status="queued")
    client = browser("researcher")
    client.post(f"/runs/{run.pk}/cancel")
    assert Run.objects.get(pk=run.pk).status == "cancelled"
    client.post(f"/runs/{run.pk}/resume")
    assert Run.objects.get(pk=run.pk).status == "queued"
    client.post(f"/runs/{run.pk}/rename", {"name": "better"})
    assert Run.objects.get(pk=run.pk).name == "better"
    Run.objects.filter(pk=run.pk).update(status="succeeded")
    page = client.post(f"/runs/{run.pk}/cancel", follow=True).content.decode()
    assert "nothing to cancel" in page
    assert client.get(f"/runs/{run.pk}/cancel").status_code == 405


def test_numbers_that_are_no_run_lead_nowhere(browser, db):
    client = browser("researcher")
    assert client.get("/runs/999").status_code == 404
    assert client.get("/runs/99999999999999999999999").status_code == 404
    assert client.post("/runs/999/cancel").status_code == 404


def test_a_deleted_run_says_so_and_offers_to_bring_it_back(browser, pretrain):
    Run.objects.filter(pk=pretrain.pk).update(deleted=timezone.now())
    answer = browser("researcher").get(f"/runs/{pretrain.pk}")
    assert answer.status_code == 410 and "Bring it back" in answer.content.decode()


def test_the_form_is_made_from_the_declaration_and_starts_a_run(browser, db):
    client = browser("researcher")
    page = client.get("/runs/new/conversations").content.decode()
    assert 'name="config.n_conversations"' in page and "Difficulty" in page
    answer = client.post(
        "/runs/new/conversations",
        form_of("conversations", **{"config.n_conversations": "1,200", "name": "talk"}),
    )
    run = Run.objects.get()
    assert answer["Location"] == f"/runs/{run.pk}"
    assert run.given == {"n_conversations": 1200} and run.name == "talk" and run.status == "queued"


def form_of(kind, preset=None, **changed):
    from core_ml import recipes

    recipe = recipes.get(kind)
    preset = preset or recipe.presets[0].name
    filled = forms.filled_from(recipe, preset, {}, {})
    return {"preset": preset} | {f"config.{name}": text for name, text in filled.texts.items()} | changed


def test_a_preset_sent_back_as_it_stands_gives_nothing_of_ones_own(db):
    from django.http import QueryDict

    from core_ml import recipes

    for recipe in recipes.all_recipes().values():
        for preset in recipe.presets:
            data = QueryDict(mutable=True)
            data.update(form_of(recipe.kind, preset.name))
            assert forms.config_of(recipe, forms.filled_by(recipe, data)) == {}, (recipe.kind, preset.name)


def test_a_field_that_will_not_do_is_named_with_its_value_and_nothing_is_lost(browser, db):
    answer = browser("researcher").post(
        "/runs/new/conversations",
        form_of("conversations", **{"config.n_problems": "a lot", "config.seed": "7"}),
    )
    page = answer.content.decode()
    assert answer.status_code == 422 and not Run.objects.exists()
    assert "&#x27;a lot&#x27;" in page and 'value="a lot"' in page
    assert 'name="config.seed" value="7"' in page
    assert page.count('aria-invalid="true"') == 1


def test_documents_are_packed_from_a_form_and_tokens_take_their_place_in_pretraining(browser, tmp_home, db):
    from tests.lab import making

    client, tokens = browser("researcher"), making.tokens([f"the cat {n} sees the sea" for n in range(8)])
    taken = {name: ids[0] for name, ids in tokens.manifest["origin"]["inputs"].items()}
    page = client.get("/runs/new/pack").content.decode()
    assert 'name="config.val_share"' in page and "Why shuffle documents?" in page
    assert all(f'value="{pk}"' in page for pk in taken.values())
    sent = {f"inputs.{name}": pk for name, pk in taken.items()} | {"config.seed": "5"}
    client.post("/runs/new/pack", form_of("pack", **sent))
    run = Run.objects.get(kind="pack")
    assert run.given == {"seed": 5} and run.status == "queued"
    assert {one.artifact_id for one in run.inputs.all()} == set(taken.values())

    sent = {"inputs.tokens": tokens.pk, "inputs.tokenizer": taken["tokenizer"], "config.weights": "2"}
    answer = client.post("/runs/new/pretrain", form_of("pretrain", **sent))
    assert answer.status_code == 302
    assert Run.objects.get(kind="pretrain").given == {"weights": [2]}
    without = client.post(
        "/runs/new/pretrain", form_of("pretrain", **{"inputs.tokenizer": taken["tokenizer"]})
    )
    assert without.status_code == 422 and "needs the input" in without.content.decode()


def test_a_missing_input_is_asked_for(browser, db):
    answer = browser("researcher").post("/runs/new/pretrain", form_of("pretrain"))
    assert (
        answer.status_code == 422
        and "Nothing in the lab fits yet" in browser("researcher").get("/runs/new/pretrain").content.decode()
    )
    assert "needs the input" in answer.content.decode()


def test_an_input_can_be_what_a_live_run_will_make(browser, db):
    maker = make_run("pretrain", status="running")
    talk = make_artifact(make_run("conversations"), "conversations", "dataset", "conversations")
    page = browser("researcher").get("/runs/new/sft").content.decode()
    assert f"run:{maker.pk}:checkpoint" in page
    sent = form_of(
        "sft", **{"inputs.checkpoint": f"run:{maker.pk}:checkpoint", "inputs.conversations": talk.pk}
    )
    browser("researcher").post("/runs/new/sft", sent)
    assert Run.objects.get(kind="sft").pending == {"checkpoint": [{"run": maker.pk, "output": "checkpoint"}]}


def test_the_cost_panel_answers_for_the_values_as_they_stand(browser, db):
    client = browser("researcher")
    page = client.post(
        "/runs/new/conversations/cost", form_of("conversations", **{"config.n_conversations": "36000"})
    ).content.decode()
    assert "What it will cost" in page and "36,000" in page and "python -m core_ml conversations" in page
    wrong = client.post(
        "/runs/new/conversations/cost", form_of("conversations", **{"config.n_conversations": "-5"})
    ).content.decode()
    assert "1 field needs you" in wrong and 'class="error" id="config-n_conversations-h"' in wrong


def test_cloning_opens_the_form_with_the_runs_own_values(browser, db):
    run = make_run("conversations", "talk", preset="tour", given={"seed": 5}, ended=timezone.now())
    client = browser("researcher")
    assert client.get(f"/runs/{run.pk}/clone")["Location"] == f"/runs/new/conversations?clone={run.pk}"
    page = client.get(f"/runs/new/conversations?clone={run.pk}").content.decode()
    assert 'name="config.seed" value="5"' in page and 'value="talk"' in page
    client.post(f"/runs/{run.pk}/clone")
    assert Run.objects.get(cloned_from=run).given == {"seed": 5}


def test_kinds_and_presets_that_do_not_exist_lead_nowhere(browser, db):
    client = browser("researcher")
    assert client.get("/runs/new/alchemy").status_code == 404
    assert client.get("/runs/new/pretrain?preset=alchemy").status_code == 404
    assert client.get("/runs/new").status_code == 200


def test_runs_stand_side_by_side_with_what_differs_marked(browser, pretrain):
    other = make_run("pretrain", EVIL, config={"steps": 40, "muon_lr": 0.01})
    metrics.append(other, [(step, {"val_bits_per_byte": 5.0 - step / 20}) for step in range(0, 41, 10)])
    client = browser("researcher")
    page = client.get(f"/runs/compare?ids={pretrain.pk},{other.pk}").content.decode()
    assert "Two pretrain runs" in page and "1 of 2 fields differ" in page
    assert f"#{pretrain.pk} reached the best validation loss, 2 bits per byte" in page
    assert "+1" in page and "<img" not in page
    lines = client.get(f"/runs/compare?ids={pretrain.pk},{other.pk}&format=csv").content.decode().splitlines()
    assert lines[0] == "run,metric,step,value" and len(lines) == 1 + 5 + 5


def test_comparing_less_than_two_runs_asks_for_more(browser, pretrain):
    client = browser("researcher")
    assert "Pick them here" in client.get("/runs/compare").content.decode()
    assert client.get(f"/runs/compare?ids={pretrain.pk},zzz").status_code == 422


def test_strangers_and_labelers_see_no_run(browser, pretrain):
    for address in (f"/runs/{pretrain.pk}", "/runs/new", "/runs/new/pretrain", "/runs/compare"):
        assert browser(None).get(address)["Location"].startswith("/sign-in")
        assert browser("labeler").get(address).status_code == 403
    assert browser("labeler").post(f"/runs/{pretrain.pk}/delete").status_code == 403
    assert Run.objects.get().deleted is None


def test_a_text_of_several_lines_comes_back_as_it_was_sent_and_a_model_is_offered(browser, db):
    from core_ml import recipes
    from core_ml.evaluation.judge_prompt import TEMPLATE

    page = browser("researcher").get("/runs/new/judge").content.decode()
    assert 'id="config-template"' in page and 'rows="12"' in page and "[Answer A]\n{answer_a}" in page
    assert 'data-suggest="models"' in page and "template of 12 lines" in page
    sent = form_of("judge", **{"config.template": TEMPLATE.replace("\n", "\r\n")})
    from django.http import QueryDict

    data = QueryDict(mutable=True)
    data.update(sent)
    recipe = recipes.get("judge")
    assert forms.config_of(recipe, forms.filled_by(recipe, data)) == {}
    answer = browser("researcher").post(
        "/runs/new/judge", form_of("judge", **{"config.template": "{question}"})
    )
    assert answer.status_code == 422 and "lacks {answer_a}" in answer.content.decode()
