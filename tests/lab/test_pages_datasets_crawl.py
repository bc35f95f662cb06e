"""A crawl's page: the funnel counted anew from the measures, thresholds that move, dropped pages to read."""

import pytest

from core_ml import recipes
from core_ml.artifact import Origin
from core_ml.crawl.rules import BY_FIELD
from core_ml.errors import UserError
from core_ml.execute import execute, read_config
from core_ml.workspace import Workspace
from lab.queries import crawl, rows
from lab.queries.passages import passage
from lab.services import artifacts
from tests.core_ml import crawled

pytestmark = pytest.mark.django_db
ATTACK = "<script>alert(1)</script>"
TABLE = "Prices\n" + "\n".join(f"{n}.50 {n * 7} £{n}.99 item" for n in range(100, 130))


@pytest.fixture
def made(tmp_home):
    """Twelve pages: ten of prose (one with markup in it), a table of prices, a page of few words; real rules."""
    texts = [crawled.prose(seed) for seed in range(10)]
    texts[3] = f"{ATTACK} is what {texts[3]}"
    lines = [{"id": str(i), "url": f"https://host{i}.example/{i}", "text": text} for i, text in enumerate([*texts, TABLE, "Too short."])]  # fmt: skip
    path = crawled.write_jsonl(tmp_home / "texts.jsonl", lines)
    out = tmp_home / "artifacts" / "abcd"
    config = crawled.OFF | {"source": "documents", "path": str(path), "min_words": 50, "min_alpha_ratio": 0.8}
    recipe = recipes.get("crawl")
    read = read_config(recipe, config, None)
    origin = Origin(recipe="crawl", config=read.model_dump(mode="json"))
    list(execute(recipe, read, Workspace(out, out / ".state", {}, origin, "abcd", "test")))
    return artifacts.adopt(out / "documents")


def counts(funnel):
    return [(row["stage"], row["in"], row["kept"], row["dropped"]) for row in funnel]


def test_counted_anew_without_a_change_it_is_the_crawls_own_count(made):
    counted = crawl.recount(made)
    assert counts(counted["stages"]) == counts(crawl.funnel(made))
    assert (counted["documents"], counted["unseen"], counted["pages"]) == (10, 0, 12)
    assert (counted["rules"]["min_words"], counted["rules"]["min_alpha_ratio"]) == (1, 1)


def test_a_stricter_threshold_drops_what_lies_below_it(made):
    documents = rows.page(made, limit=20).items
    words = sorted(len(row["text"].split()) for row in documents)
    limit = (words[4] + words[5]) / 2
    counted = crawl.recount(made, {"min_words": limit})
    # The page of prices has fewer words than prose and falls to this rule now, before the other sees it.
    assert counted["documents"] == sum(n >= limit for n in words)
    assert counted["rules"]["min_words"] == 12 - counted["documents"]
    assert counted["rules"].get("min_alpha_ratio", 0) == 0


def test_a_loosened_threshold_lets_pages_go_on_and_says_that_nobody_judged_them(made):
    counted = crawl.recount(made, {"min_words": 0, "min_alpha_ratio": 0})
    assert (counted["documents"], counted["unseen"]) == (12, 2)


@pytest.mark.parametrize("field", ["nothing", "banned_domains", 'min_words" OR 1=1 --'])
def test_what_is_no_threshold_cannot_be_moved(made, field):
    with pytest.raises(UserError, match="no rule with a threshold"):
        crawl.recount(made, {field: 1.0})


def test_a_histogram_counts_every_page_that_has_the_measure(made):
    spread = crawl.histogram(made, BY_FIELD["min_words"])
    assert sum(spread["counts"]) == spread["total"] == 12
    edges = (50 - spread["lo"]) / spread["step"]
    assert edges == pytest.approx(round(edges), abs=1e-6)


def test_the_pages_of_a_rule_come_nearest_to_the_threshold_first(made):
    found = crawl.dropped(made, "min_alpha_ratio")
    assert (found["count"], [page["url"] for page in found["items"]]) == (1, ["https://host10.example/10"])
    assert crawl.dropped(made, "min_alpha_ratio", q="nowhere")["count"] == 0
    rule = BY_FIELD["min_alpha_ratio"]
    assert crawl.next_rule(found["items"][0], rule, crawl.config(made)) is None


def test_the_page_shows_funnel_rule_and_the_passage_at_fault(browser, made):
    page = browser().get(f"/datasets/{made.pk}?stage=gopher&rule=min_alpha_ratio").content.decode()
    assert page.count("<tr data-stage=") == 8
    assert "is below" in page and "<mark>" in page
    assert "host10.example/10" in page


def test_a_moved_threshold_stands_in_the_address_and_works_without_script(browser, made):
    page = browser().get(f"/datasets/{made.pk}?stage=gopher&rule=min_words&t.min_words=1").content.decode()
    assert "of 12 raw pages" in page.lower()
    assert "Browse 11 documents" in page


def test_markup_of_a_page_is_text(browser, made):
    for query in ("view=rows&q=alert", "view=rows", "stage=gopher"):
        page = browser().get(f"/datasets/{made.pk}?{query}").content.decode()
        assert ATTACK not in page


def test_the_script_asks_for_a_recount(browser, made):
    answer = browser().get(f"/datasets/{made.pk}/recount?t.min_words=1").json()
    assert answer["documents"] == 11
    wrong = browser().get(f"/datasets/{made.pk}/recount?t.min_words=abc")
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "min_words")
    assert browser().get(f"/datasets/{made.pk}/recount?t.min_words=nan").status_code == 422


def test_unknown_stages_views_and_rules_are_met_calmly(browser, made):
    assert browser().get(f"/datasets/{made.pk}?stage=nothing").status_code == 404
    assert browser().get(f"/datasets/{made.pk}?view=nothing").status_code == 404
    assert browser().get(f"/datasets/{made.pk}?stage=gopher&rule=nothing").status_code == 200
    assert browser().get(f"/datasets/{made.pk}?stage=gopher&t.min_words=1e999").status_code == 200


@pytest.mark.parametrize(
    ("measure", "text", "marked"),
    [
        ("alpha_ratio", "one 2 3 four 5", ["2 3", "5"]),
        ("ellipsis_ratio", "a line\nbreaks off...\nend", ["breaks off..."]),
        ("dup_line_ratio", "same\nother\nsame", ["same"]),
        ("top_2_gram_ratio", "a b c a b", ["a b", "a b"]),
        ("curly_brackets", "f() { x }", ["{", "}"]),
        ("words", "nothing to mark", []),
    ],
)
def test_the_passage_at_fault_is_marked_and_the_text_stays_whole(measure, text, marked):
    pieces, n = passage(measure, text)
    assert "".join(piece for piece, _ in pieces) == text
    assert [piece for piece, fault in pieces if fault] == marked
    assert n == len(marked)
