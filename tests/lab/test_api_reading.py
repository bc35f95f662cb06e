"""What the pages of crawls, checkpoints and tokenizers tell, told to programs."""

import pytest

from core_ml.tokenizer.tokenizer import Tokenizer
from lab.services import artifacts
from tests.lab import making
from tests.lab.test_pages_checkpoints import base, chat, examined  # noqa: F401
from tests.lab.test_pages_datasets_crawl import TABLE, counts, made  # noqa: F401
from tests.lab.test_pages_playground import model  # noqa: F401

pytestmark = pytest.mark.django_db
V1 = "/api/v1"


@pytest.fixture
def crawled(made):  # noqa: F811
    """Twelve pages, ten of which were kept; one has too few words, one too few words with a letter."""
    return f"{V1}/datasets/{made.pk}"


@pytest.fixture
def letters(tmp_home):
    return making.tokenizer()


def test_the_funnel_tells_each_stage_and_its_rules(api, crawled):
    stages = api().get(f"{crawled}/funnel").json()["stages"]
    assert len(stages) == 8
    assert (stages[0]["in"], stages[-1]["kept"]) == (12, 10)
    rules = {rule["rule"]: rule for stage in stages for rule in stage["rules"]}
    alpha = rules["min_alpha_ratio"]
    assert (alpha["threshold"], alpha["dropped"], alpha["side"], alpha["movable"]) == (0.8, 1, "min", True)
    assert {name: n for stage in stages for name, n in stage["reasons"].items() if n} == {
        "min_words": 1,
        "min_alpha_ratio": 1,
    }


def test_a_histogram_counts_every_page_that_was_measured(api, crawled):
    told = api().get(f"{crawled}/histogram?rule=min_words&bins=10").json()
    assert (told["threshold"], told["total"], sum(told["counts"])) == (50, 12, 12)
    assert told["least"] == 2  # "Too short."
    finer = api().get(f"{crawled}/histogram?rule=min_words&bins=200").json()
    assert finer["step"] < told["step"]
    assert sum(finer["counts"]) == 12


def test_recounted_without_a_change_it_is_the_crawls_own_count(api, crawled):
    told = api().post(f"{crawled}/recount").json()
    assert counts(told["stages"]) == counts(api().get(f"{crawled}/funnel").json()["stages"])
    assert (told["pages"], told["documents"], told["unseen"]) == (12, 10, 0)
    loose = api().post(f"{crawled}/recount", {"thresholds": {"min_words": 0, "min_alpha_ratio": 0}}).json()
    assert (loose["documents"], loose["unseen"]) == (12, 2)


def test_dropped_pages_come_with_what_is_at_fault(api, crawled):
    told = api().get(f"{crawled}/dropped?rule=min_alpha_ratio").json()
    (page,) = told["items"]
    assert (told["count"], page["url"], page["threshold"]) == (1, "https://host10.example/10", 0.8)
    assert page["value"] == page["measures"]["alpha_ratio"] < 0.8
    marked = [page["text"][start:end] for start, end in page["faults"]]
    # Each line of prices holds one word with a letter, the last: what stands before it is at fault.
    assert marked[0].split() == TABLE.split()[1:4]
    assert api().get(f"{crawled}/dropped?rule=min_alpha_ratio&offset=1").json() == {"items": [], "count": 1}
    assert api().get(f"{crawled}/dropped?rule=min_alpha_ratio&q=nowhere").json()["count"] == 0


def test_a_dataset_that_is_no_crawl_says_so(api, tmp_home):
    plain = f"{V1}/datasets/{making.dataset('documents', [{'text': 'one'}]).pk}"
    for answer in (
        api().get(f"{plain}/funnel"),
        api().get(f"{plain}/histogram?rule=min_words"),
        api().post(f"{plain}/recount"),
        api().get(f"{plain}/dropped?rule=min_words"),
    ):
        assert answer.status_code == 409
        assert "only the documents of a crawl" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("histogram", "rule"), ("histogram?rule=nothing", "rule"), ("histogram?rule=min_words&bins=1", "bins"),
        ("histogram?rule=min_words&bins=9999999", "bins"), ("dropped", "rule"), ("dropped?rule=nothing", "rule"),
        ("dropped?rule=min_words&limit=101", "limit"), ("dropped?rule=min_words&offset=-1", "offset"),
    ],
)  # fmt: skip
def test_bad_queries_of_a_crawl_name_the_field(api, crawled, query, field):
    answer = api().get(f"{crawled}/{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].endswith(field)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"thresholds": {"nothing": 1}}, "thresholds.nothing"),
        ({"thresholds": {"min_words": "many"}}, "thresholds.min_words"),
        ({"threshold": {}}, "threshold"),
    ],
)
def test_bad_thresholds_are_named(api, crawled, body, field):
    answer = api().post(f"{crawled}/recount", body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


def test_a_report_card_counts_what_both_models_solved(api, base, chat):  # noqa: F811
    run = examined(base, chat, {"base": [False] * 10, "chat": [True] * 10})
    card = api().get(f"{V1}/checkpoints/{chat.pk}/report-card").json()["card"]
    assert (card["run"], card["name"], card["before"], card["before_artifact"]) == (run.pk, "chat", "base", base.pk)  # fmt: skip
    scores = {score["title"]: score for group in card["groups"] for score in group["scores"]}
    solved = scores["Problems solved"]
    assert (solved["this"]["value"], solved["before"]["value"], solved["change"], solved["sure"]) == (1, 0, 1, True)  # fmt: skip
    assert scores["Bits per byte"]["change"] == 0.5


def test_a_checkpoint_that_nobody_examined_has_no_card(api, base):  # noqa: F811
    assert api().get(f"{V1}/checkpoints/{base.pk}/report-card").json() == {"card": None, "rewards": []}


def test_a_reward_model_tells_its_accuracies(api, base):  # noqa: F811
    base.role, base.summary = (
        "reward",
        {"val_accuracy": 0.75, "val_accuracy_low": 0.5, "val_accuracy_high": 0.9},
    )
    base.save()
    (told,) = api().get(f"{V1}/checkpoints/{base.pk}/report-card").json()["rewards"]
    assert told == {"title": "this model", "value": 0.75, "low": 0.5, "high": 0.9}


def test_a_report_without_its_verdicts_is_told(api, base, chat):  # noqa: F811
    examined(base, chat, {"base": [False], "chat": [True]})
    report = artifacts.local_path(chat).parents[1] / "22222222" / "report" / "rollouts.parquet"
    report.write_bytes(b"PAR1 and then nothing")
    answer = api().get(f"{V1}/checkpoints/{chat.pk}/report-card")
    assert answer.status_code == 422
    assert "cannot be read" in answer.json()["detail"]


def test_a_passage_is_found_in_what_a_model_read(api, model):  # noqa: F811
    passages = f"{V1}/checkpoints/{model.pk}/passages"
    told = api().get(passages, data={"q": "the  WHALE dives"}).json()
    (found,) = told["datasets"]
    assert (told["passage"], found["count"], found["form"]) == ("the WHALE dives", 1, "documents")
    assert (found["items"][0]["passage"], found["items"][0]["title"]) == (
        "The whale dives",
        "https://a.example/",
    )
    assert api().get(passages, data={"q": "not in there"}).json()["datasets"][0]["count"] == 0
    for q in ("short", "a      b", "a" * 201):
        answer = api().get(passages, data={"q": q})
        assert (answer.status_code, answer.json()["errors"][0]["field"][-1]) == (422, "q")
    assert api().get(passages).status_code == 422


def test_a_vocabulary_is_paged_and_searched_by_spelling_and_id(api, letters):
    vocabulary = f"{V1}/tokenizers/{letters.pk}/vocabulary"
    every = api().get(f"{vocabulary}?limit=200&offset=200").json()
    assert (every["count"], [item["id"] for item in every["items"]]) == (280, list(range(200, 280)))
    (special,) = api().get(f"{vocabulary}?q=im_sep").json()["items"]
    assert (special["text"], special["special"]) == ("<|im_sep|>", True)
    assert 7 in [item["id"] for item in api().get(f"{vocabulary}?q=7&limit=200").json()["items"]]
    assert bytes(api().get(vocabulary, data={"q": "↵"}).json()["items"][0]["bytes"]) == b"\n"
    assert api().get(f"{vocabulary}?limit=201").status_code == 422


def test_merges_lead_from_letters_to_the_tokens(api, letters):
    told = api().get(f"{V1}/tokenizers/{letters.pk}/merges?word=the").json()
    ids = Tokenizer.load(artifacts.local_path(letters) / "tokenizer.json").encode("the")
    assert [token["id"] for token in told["tokens"]] == ids
    (steps,) = told["pieces"]
    assert steps[-1]["pieces"] == [token["text"] for token in told["tokens"]]
    # Each merge joins two pieces into one: three letters less the steps are the tokens.
    assert 3 - len(steps) == len(ids)
    for query in ("", "?word=", f"?word={'a' * 61}"):
        assert api().get(f"{V1}/tokenizers/{letters.pk}/merges{query}").status_code == 422


def test_pages_and_programs_are_told_the_same(api, browser, crawled, model, letters):  # noqa: F811
    person = browser()
    page = person.get(f"{crawled.removeprefix(V1)}/recount", {"t.min_words": "0"}).json()
    assert page == api().post(f"{crawled}/recount", {"thresholds": {"min_words": 0}}).json()
    q = "the  WHALE dives"
    page = person.get("/playground/search", {"model": model.pk, "q": q}).json()
    told = api().get(f"{V1}/checkpoints/{model.pk}/passages", data={"q": q}).json()
    assert (page["passage"], page["datasets"][0]["items"]) == (told["passage"], told["datasets"][0]["items"])
    page = person.get(f"/tokenizers/{letters.pk}?view=vocabulary&q=a").content.decode()
    count = api().get(f"{V1}/tokenizers/{letters.pk}/vocabulary?q=a").json()["count"]
    assert f"1 to {count} of {count} tokens" in page
    for path in ("/datasets", f"/checkpoints/{model.pk}", crawled.removeprefix(V1)):
        assert person.get(path).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "datasets/x/funnel", "datasets/x/histogram?rule=min_words", "datasets/x/dropped?rule=min_words",
        "checkpoints/x/report-card", "checkpoints/x/passages?q=long+enough", "tokenizers/x/vocabulary",
        "tokenizers/x/merges?word=a",
    ],
)  # fmt: skip
def test_strangers_and_labelers_stay_out_and_what_is_not_there_is_404(api, path):
    for role, status in ((None, 401), ("labeler", 403), ("researcher", 404)):
        assert api(role).get(f"{V1}/{path}").status_code == status


def test_nobody_recounts_without_leave(api):
    for role, status in ((None, 401), ("labeler", 403), ("researcher", 404)):
        assert api(role).post(f"{V1}/datasets/x/recount").status_code == status
