"""lm-evaluation-harness as a client of the running engine: its scores are those that the network itself gives."""

import gzip
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from core_ml import artifact
from core_ml.evaluation.exam import Answer, Exam, Problem, as_plain_text, sit
from core_ml.evaluation.statistics import wilson
from core_ml.exchange import gguf
from core_ml.model import checkpoint
from core_ml.model.config import GPTConfig
from core_ml.model.gpt import GPT
from core_ml.tokenizer.tokenizer import Tokenizer
from tests.engines import KEY

N_ITEMS = 24
pytest.importorskip("lm_eval")
pytest.importorskip("xllamacpp")


@pytest.fixture(scope="module")
def items(shared: Path) -> list[dict[str, Any]]:
    with gzip.open(shared / "eval-hellaswag" / "validation.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in itertools.islice(lines, N_ITEMS)]


@pytest.fixture(scope="module")
def root(items: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model with drawn weights and a tokenizer learned from the items, and its export in f16."""
    root = tmp_path_factory.mktemp("lm-eval")
    tokenizer = Tokenizer.train([f"{item['context']} {' '.join(item['endings'])}" for item in items], 700)
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size,
        n_layer=2,
        n_head=4,
        n_kv_head=2,
        d_model=64,
        max_seq_len=256,
        ff_mult=2,
    )
    model, draws = GPT(config), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draws) * 0.2)
    origin = artifact.Origin(recipe="pretrain")
    writer = artifact.Writer(
        root / "aaaa1111" / "checkpoint", id="aaaa1111-checkpoint", kind="checkpoint", name="ours", role="base", origin=origin
    )  # fmt: skip
    checkpoint.save(model, tokenizer, writer.path)
    writer.finish({})
    writer = artifact.Writer(
        root / "bbbb2222" / "export", id="bbbb2222-export", kind="export", name="ours-f16", origin=origin
    )
    gguf.save(writer.path / "ours.gguf", root / "aaaa1111" / "checkpoint", "f16", name="ours", role="base")
    writer.finish({"role": "base"})
    return root


@pytest.fixture(scope="module")
def ours(root: Path, items: list[dict[str, Any]]) -> list[list[tuple[float, int]]]:
    """Of each item and ending the log-probability that the network gives it, and its characters."""
    model, tokenizer = checkpoint.load(root / "aaaa1111" / "checkpoint", "cpu")
    found = []
    for item in items:
        begun = [tokenizer.bos_id, *tokenizer.encode(item["context"])]
        scores = []
        for ending in item["endings"]:
            ids = [tokenizer.bos_id, *tokenizer.encode(f"{item['context']} {ending}")]
            assert ids[: len(begun)] == begun
            with torch.no_grad():
                logprobs = model(torch.tensor([ids]))[0, :-1].log_softmax(-1)
            own = logprobs.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
            scores.append((float(own[len(begun) - 1 :].sum()), len(ending)))
        found.append(scores)
    return found


def hf_tokenizer(root: Path, target: Path) -> Path:
    """Our tokenizer as the harness loads one, beginning each text as a document."""
    tokenizer = Tokenizer.load(root / "aaaa1111" / "checkpoint")
    fields = json.loads(tokenizer.inner.to_str())
    bos = tokenizer.name(tokenizer.bos_id)
    fields["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [tokenizer.bos_id], "tokens": [bos]}},
    }
    target.mkdir()
    (target / "tokenizer.json").write_text(json.dumps(fields))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": bos}
    (target / "tokenizer_config.json").write_text(json.dumps(settings))
    (target / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    return target


@pytest.fixture
def harness(root: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """harness(model, config, rows) has a model of the engine sit a task; gives what lm-eval found."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    import lm_eval
    from lm_eval.api.task import ConfigurableTask

    def evaluated(model: str, config: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
        file = tmp_path / "items.jsonl"
        file.write_text("\n".join(json.dumps(row) for row in rows))
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"validation": str(file)}}}
        found: dict[str, Any] = lm_eval.simple_evaluate(
            model="local-completions",
            model_args={
                "model": model,
                "base_url": f"{url}/v1/completions",
                "tokenizer": str(hf_tokenizer(root, tmp_path / "tokenizer")),
                "add_bos_token": True,
                "num_concurrent": 1,
                "max_length": 256,
                "batch_size": 4,
            },
            tasks=[ConfigurableTask(config=source | {"validation_split": "validation"} | config)],
            bootstrap_iters=0,
            log_samples=True,
        )
        return found

    return evaluated


def test_its_scores_of_written_answers_are_those_of_our_own_exam(
    harness: Callable[..., Any], root: Path, items: list[dict[str, Any]], in_float32: None
) -> None:
    """Of every second problem the answer is what the model writes, so that a score other than 0 is to be found."""
    model, tokenizer = checkpoint.load(root / "aaaa1111" / "checkpoint", "cpu")
    shots = [Problem("words", "the cat", "a tree", "exact"), Problem("words", "the dog", "the sea", "exact")]

    def sat(problems: list[Problem]) -> list[Answer]:
        sitting = sit(
            model,
            tokenizer,
            Exam(problems, {"words": shots}),
            "few-shot",
            max_new_tokens=8,
            temperature=1,
            seed=0,
        )
        try:
            while True:
                next(sitting)
        except StopIteration as end:
            return list(end.value)

    asked = [Problem("words", item["context"][:60], "never", "exact") for item in items]
    problems = [
        replace(problem, answer=answer.text) if i % 2 and answer.text else problem
        for i, (problem, answer) in enumerate(zip(asked, sat(asked), strict=True))
    ]
    ours = sat(problems)
    assert 0 < sum(answer.correct for answer in ours) < N_ITEMS
    told = harness(
        "ours",
        {
            "task": "written",
            "output_type": "generate_until",
            "doc_to_text": "{{text}}",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "temperature": 0, "do_sample": False},
            "metric_list": [{"metric": "exact_match", "ignore_case": True}],
            "filter_list": [
                {"name": "plain", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
            ],
        },
        [{"text": as_plain_text(problem, shots), "answer": problem.answer} for problem in problems],
    )
    samples = sorted(told["samples"]["written"], key=lambda sample: sample["doc_id"])
    assert [sample["filtered_resps"][0].strip() for sample in samples] == [answer.text for answer in ours]
    assert [bool(sample["exact_match"]) for sample in samples] == [answer.correct for answer in ours]
    share = wilson(sum(answer.correct for answer in ours), N_ITEMS).value
    assert told["results"]["written"]["exact_match,plain"] == pytest.approx(share)


@pytest.mark.parametrize(("model", "tolerance"), [("ours", 2e-3), ("ours-f16", 0.3)])
def test_its_scores_of_hellaswag_are_our_own_of_the_same_items(
    model: str,
    tolerance: float,
    harness: Callable[..., Any],
    items: list[dict[str, Any]],
    ours: list[list[tuple[float, int]]],
) -> None:
    told = harness(
        model,
        {
            "task": "endings",
            "output_type": "multiple_choice",
            "doc_to_text": "{{context}}",
            "doc_to_choice": "{{endings}}",
            "doc_to_target": "{{label}}",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        },
        items,
    )
    samples = sorted(told["samples"]["endings"], key=lambda sample: sample["doc_id"])
    assert len(samples) == N_ITEMS
    for sample, scores in zip(samples, ours, strict=True):
        theirs = [float(response[0]) for response in sample["filtered_resps"]]
        assert theirs == pytest.approx([score for score, _ in scores], abs=tolerance)
    if model == "ours":
        picked = [max(range(4), key=lambda k: scores[k][0]) for scores in ours]
        normed = [max(range(4), key=lambda k: scores[k][0] / scores[k][1]) for scores in ours]
        labels = [item["label"] for item in items]
        results = told["results"]["endings"]
        for name, choices in (("acc,none", picked), ("acc_norm,none", normed)):
            share = sum(one == label for one, label in zip(choices, labels, strict=True)) / N_ITEMS
            assert results[name] == pytest.approx(share)
