"""How far those agree who ranked a dataset: its tab, its API, and what an import measures of real sets."""

import json
import re

import pytest

from core_ml.feedback.sets.measured import measured
from lab.models import Artifact
from lab.queries import set_agreement
from lab.services import artifacts, datasets
from tests.lab import making

pytestmark = pytest.mark.django_db
DATASETS = "/api/v1/datasets"
EVIL = "<img src=x onerror=alert(1)>"


def row(group, labeler, order, **more):
    return {"group_id": group, "prompt": f"prompt {group}", "completions": ["a", "b"], "labeler": labeler,
            "order": order, "simulated": False, **more}  # fmt: skip


# Of three groups two are alike and one is a tie against an order: 2 of 2 without ties, 2 of 3 with them.
ROWS = [
    row("g0", EVIL, [[0], [1]], flags='{"0": ["untrue"]}'),
    row("g0", "lou", [[0], [1]]),
    row("g1", EVIL, [[1], [0]]),
    row("g1", "lou", [[1], [0]]),
    row("g2", EVIL, [[0], [1]]),
    row("g2", "lou", [[0, 1]]),
    row("g2", "a judge", [[1], [0]], simulated=True),
]


@pytest.fixture
def ranked(tmp_home):
    return making.dataset("rankings", ROWS, name="two people")


def test_the_tab_shows_both_figures_each_labeler_and_what_they_wrote_as_text(browser, ranked):
    page = browser().get(f"/datasets/{ranked.pk}?view=agreement").content.decode()
    assert "People agree on 100.0 %" in page and "on 66.7 %" in page
    assert "&lt;img src=x" in page and "<img src" not in page
    assert "lou" in page and "Programs against the people" in page and "a judge" in page
    assert "untrue" in page
    # Each flag with both measures, and the interval of either below it.
    assert re.search(r"untrue</th>.*?\d+ % to \d+ %.*?</tr>", page, re.DOTALL)
    assert 'href="?view=agreement"' in browser().get(f"/datasets/{ranked.pk}").content.decode()


def test_only_rankings_have_such_a_tab_and_strangers_no_entry(browser, api, ranked):
    other = making.rollouts()
    assert browser().get(f"/datasets/{other.pk}?view=agreement").status_code == 404
    assert "view=agreement" not in browser().get(f"/datasets/{other.pk}").content.decode()
    assert browser(None).get(f"/datasets/{ranked.pk}?view=agreement").status_code == 302
    assert browser("labeler").get(f"/datasets/{ranked.pk}?view=agreement").status_code in (302, 403)
    assert api(None).get(f"{DATASETS}/{ranked.pk}/agreement").status_code == 401
    assert api("labeler").get(f"{DATASETS}/{ranked.pk}/agreement").status_code == 403
    assert api().get(f"{DATASETS}/nothing/agreement").status_code == 404
    wrong = api().get(f"{DATASETS}/{other.pk}/agreement")
    assert wrong.status_code == 422 and "only rankings can agree" in wrong.json()["errors"][0]["message"]


def test_the_api_tells_what_the_measures_say(api, ranked):
    told = api().get(f"{DATASETS}/{ranked.pk}/agreement").json()
    paths = list((artifacts.local_path(ranked)).glob("*.parquet"))
    # Through JSON, which has no tuples.
    assert {name: told[name] for name in set_agreement.PARTS if name in told} == json.loads(json.dumps(measured(paths)))  # fmt: skip
    assert told["agreement"]["agreement_ordered"]["value"] == 1 and told["finding"].startswith("People agree")
    assert told["judges"][0]["labeler"] == "a judge" and told["judges"][0]["pairs"] == 2


def test_a_set_that_each_ranked_alone_says_that_nothing_can_be_compared(browser, tmp_home):
    alone = making.dataset(
        "rankings", [row("g0", "lea", [[0], [1]]), row("g1", "lou", [[0], [1]])], "0000eeee"
    )
    page = browser().get(f"/datasets/{alone.pk}?view=agreement").content.decode()
    assert "no group was ranked by two of them" in page and "nobody ranked the same" in page


def test_a_set_too_large_to_be_measured_while_a_page_waits_says_so(browser, api, ranked):
    Artifact.objects.filter(pk=ranked.pk).update(summary={"rankings": 2_000_000})
    page = browser().get(f"/datasets/{ranked.pk}?view=agreement").content.decode()
    assert "has 2,000,000 rankings, more than the 50,000" in page
    assert api().get(f"{DATASETS}/{ranked.pk}/agreement").status_code == 422


def test_pandalms_three_annotators_agree_as_they_are_known_to(shared, browser, tmp_home):
    """0.915 of all pairs and 0.937 of those without ties, as an independent count over the file gave."""
    made = datasets.import_upload(shared / "pref-pandalm" / "pairs.jsonl.gz", "pairs.jsonl.gz")
    agreed = set_agreement.of(made)["agreement"]
    assert agreed is made.summary["agreement"]
    assert agreed["n_labelers"] == 3
    assert round(agreed["agreement"]["value"], 3) == 0.915
    assert round(agreed["agreement_ordered"]["value"], 3) == 0.937
    page = browser().get(f"/datasets/{made.pk}?view=agreement").content.decode()
    assert "People agree on 93.7 %" in page and "on 91.5 %" in page
