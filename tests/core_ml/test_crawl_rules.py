"""The table of rules, and the one way in which all of them decide."""

import subprocess
import sys

import pytest

from core_ml import recipes
from core_ml.crawl.config import CrawlConfig
from core_ml.crawl.funnel import Funnel
from core_ml.crawl.rules import BY_FIELD, LINE_RULES, MEASURES, RULES, STAGE_NAMES, Decision, decide


def test_every_rule_has_a_field_that_names_the_side_it_keeps():
    for rule in RULES:
        assert rule.field in CrawlConfig.model_fields
        assert rule.stage in STAGE_NAMES
        assert rule.fixed is not None or rule.field.startswith(f"{rule.side}_"), rule.field
    assert set(LINE_RULES) <= set(CrawlConfig.model_fields)
    assert len(BY_FIELD) == len(RULES)


def test_the_stages_are_fineweb_s_in_its_order():
    assert STAGE_NAMES == ("url", "extraction", "language", "gopher", "minhash", "c4", "custom", "pii")


def test_the_first_rule_that_a_page_violates_is_its_reason():
    config = CrawlConfig()
    measures = {"words": 12.0, "alpha_ratio": 0.2}
    assert decide("gopher", measures, config) == Decision("gopher", "min_words", 12.0, 50)
    assert decide("gopher", measures | {"words": 60.0}, config) == Decision(
        "gopher", "min_alpha_ratio", 0.2, 0.8
    )
    assert decide("gopher", {"words": 50.0, "alpha_ratio": 0.8}, config) is None


def test_a_rule_that_is_off_and_a_measure_that_is_missing_drop_nothing():
    assert decide("gopher", {"words": 1.0}, CrawlConfig(min_words=None)) is None
    assert decide("minhash", {}, CrawlConfig()) is None
    assert decide("url", {"banned_word_hits": 1.0}, CrawlConfig(banned_url_words=())) is None
    assert decide("url", {"banned_word_hits": 1.0}, CrawlConfig()) == Decision(
        "url", "banned_url_words", 1.0, 0
    )


def test_a_rule_reads_the_json_of_a_config_as_it_reads_the_config():
    config = CrawlConfig(min_words=7)
    for rule in RULES:
        assert rule.threshold(config.model_dump(mode="json")) == rule.threshold(config)


def test_the_presets_are_valid_and_fineweb_s_is_the_published_one():
    recipe = recipes.get("crawl")
    for preset in recipe.presets:
        recipe.config.model_validate(preset.config)
    published = recipe.config.model_validate(recipe.preset("fineweb").config)
    # Rae et al. 2021, table A1 and appendix A.1.1; Penedo et al. 2024, sections 3.3 and 3.6.
    assert [getattr(published, f"max_top_{n}_gram_ratio") for n in (2, 3, 4)] == [0.20, 0.18, 0.16]
    assert [getattr(published, f"max_dup_{n}_gram_ratio") for n in range(5, 11)] == [
        0.15,
        0.14,
        0.13,
        0.12,
        0.11,
        0.10,
    ]
    assert (
        published.min_words,
        published.max_words,
        published.min_alpha_ratio,
        published.min_stop_words,
    ) == (50, 100_000, 0.8, 2)
    assert (published.min_language_score, published.min_line_punct_ratio, published.max_short_line_ratio) == (
        0.65,
        0.12,
        0.67,
    )


@pytest.mark.parametrize("broken", ["entered", "kept", "rules"])
def test_a_funnel_that_lost_a_page_says_so(broken: str):
    funnel = Funnel()
    for stage in STAGE_NAMES:
        funnel.enter(stage)
        funnel.keep(stage)
    funnel.check(1, 1)
    if broken == "rules":
        funnel.rows["c4"].rules["min_sentences"] += 1
    else:
        setattr(funnel.rows["c4"], broken, 2)
    with pytest.raises(AssertionError):
        funnel.check(1, 1)


def test_the_declaration_imports_nothing_heavy():
    code = "import sys, core_ml.recipes.crawl, core_ml.crawl.rules; print([n for n in ('torch', 'pyarrow', 'numpy', 'resiliparse', 'fastwarc') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert len(MEASURES) == len(set(MEASURES))
