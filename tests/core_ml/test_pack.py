"""Documents to a dataset of tokens: the same to the byte in any pieces, and read by pretraining as documents are."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core_ml import artifact
from core_ml.artifact import Folder
from core_ml.errors import UserError
from core_ml.events import Done, Event, Failed, Figure, Sample, Summary
from core_ml.execute import execute, read_config, read_inputs
from core_ml.recipes import pretrain
from core_ml.recipes.pack import RECIPE, cost
from core_ml.tokenizer.tokenizer import Tokenizer
from core_ml.training import packing
from core_ml.training.tokens import Tokens
from core_ml.workspace import Workspace
from tests.core_ml import small
from tests.core_ml.test_pretrain import SMALL


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    documents = small.documents(folder / "documents")
    # Row groups of seven documents, of which pieces are made.
    table = pq.read_table(documents / "documents-00000.parquet")
    writer = artifact.Writer(
        documents, id="t-documents", kind="dataset", form="documents", name="texts", origin=small.ORIGIN
    )
    pq.write_table(table.slice(0, 40), writer.path / "documents-00000.parquet", row_group_size=7)
    pq.write_table(table.slice(40), writer.path / "documents-00001.parquet", row_group_size=7)
    pq.write_table(pa.table({"id": ["no"]}), writer.path / "decisions-00000.parquet")
    writer.finish({"bytes_text": 17_000})
    return {"documents": documents, "tokenizer": small.tokenizer_artifact(folder / "tokenizer")}


def pack(folder: Path, inputs: dict[str, Path], processes: int = 1, **options: object) -> list[Event]:
    config = read_config(RECIPE, options)
    return list(execute(RECIPE, config, small.workspace(RECIPE, folder, **inputs), processes=processes))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


@pytest.fixture(scope="module")
def packed(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Event], Path]:
    folder = tmp_path_factory.mktemp("packed")
    return pack(folder, inputs), folder / "tokens"


def test_it_makes_a_dataset_of_tokens_that_knows_its_tokenizer(
    inputs: dict[str, Path], packed: tuple[list[Event], Path]
) -> None:
    events, folder = packed
    assert isinstance(events[-1], Done)
    tokens = Folder(folder)
    tokens.verify()
    assert (tokens.manifest.kind, tokens.manifest.form) == ("dataset", "tokens")
    summary, train, val = tokens.manifest.summary, Tokens(folder, "train"), Tokens(folder, "val")
    assert summary["n_documents"] == 60 == train.n_documents + val.n_documents
    assert summary["n_tokens"] == train.n_tokens + val.n_tokens
    texts = pq.read_table(inputs["documents"] / "documents-00000.parquet")["text"].to_pylist()
    texts += pq.read_table(inputs["documents"] / "documents-00001.parquet")["text"].to_pylist()
    n_bytes = sum(len(text.encode()) for text in texts)
    assert summary["bytes_text"] == n_bytes
    assert summary["bytes_per_token"] == round(n_bytes / (summary["n_tokens"] - 60), 3)
    assert (summary["tokenizer"], summary["tokenizer_id"]) == ("tok", "t-tokenizer")
    assert Tokenizer.load(folder).encode("The cat") == small.tokenizer().encode("The cat")
    told = [event for event in events if isinstance(event, Figure | Sample | Summary)]
    assert sum(told[0].content["data"][0]["y"]) == train.n_documents
    assert any(text.startswith(told[1].prompt[:100]) for text in texts)


def test_the_index_leads_from_tokens_to_the_row_of_each_document(
    inputs: dict[str, Path], packed: tuple[list[Event], Path]
) -> None:
    texts = [
        text
        for number in (0, 1)
        for text in pq.read_table(inputs["documents"] / f"documents-0000{number}.parquet")["text"].to_pylist()
    ]
    tokenizer, rows = small.tokenizer(), []
    for side in ("train", "val"):
        tokens = Tokens(packed[1], side)
        for shard, entries in zip(tokens.shards, tokens.documents, strict=True):
            ends = [*entries["start"][1:], len(shard)]
            for (start, row), end in zip(entries, ends, strict=True):
                assert shard[start] == tokenizer.bos_id
                assert tokenizer.decode(shard[start:end].tolist()) == texts[row]
                rows.append(int(row))
    assert sorted(rows) == list(range(60)) and rows[:20] != sorted(rows[:20])


@pytest.mark.parametrize(("piece_mb", "processes"), [(0.0001, 1), (0.003, 2)])
def test_the_result_does_not_depend_on_pieces_and_processes(
    inputs: dict[str, Path], packed: tuple[list[Event], Path], tmp_path: Path, piece_mb: float, processes: int
) -> None:
    events = pack(tmp_path, inputs, processes, piece_mb=piece_mb)
    assert isinstance(events[-1], Done)
    assert len(list((tmp_path / ".state/stages/encode").iterdir())) > 2
    assert files(tmp_path / "tokens") == files(packed[1])


def test_another_seed_gives_another_order_of_the_same_documents(
    inputs: dict[str, Path], packed: tuple[list[Event], Path], tmp_path: Path
) -> None:
    pack(tmp_path, inputs, seed=1)
    orders = [
        Tokens(folder, "train").documents[0]["row"].tolist() for folder in (packed[1], tmp_path / "tokens")
    ]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_several_shards_hold_the_order_of_one(
    inputs: dict[str, Path],
    packed: tuple[list[Event], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packing, "SHARD_TOKENS", 1000)
    pack(tmp_path, inputs)
    tokens = Tokens(tmp_path / "tokens", "train")
    assert len(tokens.shards) > 4
    assert np.array_equal(np.concatenate(tokens.shards), Tokens(packed[1], "train").shards[0])


def test_a_finished_piece_is_never_packed_again(
    inputs: dict[str, Path],
    packed: tuple[list[Event], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encode, calls = packing.encode, []

    def failing(piece, *given):
        calls.append(piece.place)
        if len(calls) == 3:
            raise RuntimeError("the machine went away")
        return encode(piece, *given)

    monkeypatch.setattr(packing, "encode", failing)
    assert isinstance(pack(tmp_path, inputs, piece_mb=0.0001)[-1], Failed)
    assert isinstance(pack(tmp_path, inputs, piece_mb=0.0001)[-1], Done)
    assert calls[:2] == [0, 7] and calls[2] == calls[3] and len(set(calls)) == len(calls) - 1
    assert files(tmp_path / "tokens") == files(packed[1])


def test_packing_without_a_pool_passes_over_finished_pieces_too(
    inputs: dict[str, Path], packed: tuple[list[Event], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "PIECE_BYTES", 100)
    parquet = [inputs["documents"] / f"documents-0000{number}.parquet" for number in (0, 1)]
    given = (parquet, small.tokenizer(), tmp_path, 0.05)
    half = packing.pack(*given)
    for event in half:
        if event.message == "packing tokens" and event.step >= 20:
            half.close()
            break
    # Seven documents a piece: two are whole, the third was begun.
    assert len(list((tmp_path / "encoded").glob("[0-9]*"))) == 2
    rest = list(packing.pack(*given))
    assert min(event.step for event in rest if event.message == "packing tokens") >= 14
    whole = Tokens(packed[1], "train")
    assert np.array_equal(Tokens(tmp_path, "train").shards[0], whole.shards[0])
    assert list(packing.pack(*given)) == []
    assert not (tmp_path / "encoded").exists()


@pytest.mark.parametrize(
    ("texts", "told"),
    [([], "are empty"), (["The only one."], "none is left for training|none is left for validation")],
)
def test_documents_that_cannot_be_packed_are_told(
    inputs: dict[str, Path], tmp_path: Path, texts: list[str], told: str
) -> None:
    few = small.documents(tmp_path / "few", texts)
    (failed,) = [e for e in pack(tmp_path / "out", {**inputs, "documents": few}) if isinstance(e, Failed)]
    assert failed.field == "documents" and any(part in failed.message for part in told.split("|"))
    assert not (tmp_path / "out/tokens").exists()


def test_the_cost_follows_the_documents() -> None:
    config = read_config(RECIPE, {})
    assert cost(config, {}).seconds is None
    assert cost(config, {"documents": [{"bytes_text": 2 * 10**9}]}).disk_bytes == 4 * 10**9


# Pretraining on tokens


def train(folder: Path, given: dict[str, list[Path]], **options: object) -> list[Event]:
    opened = read_inputs(pretrain.RECIPE, given)
    place = Workspace(folder, folder / ".state", opened, small.ORIGIN, "t", "test")
    return list(pretrain.RECIPE.run(read_config(pretrain.RECIPE, {**SMALL, **options}), place))


def summary(events: list[Event]) -> dict[str, object]:
    found: dict[str, object] = {}
    for event in events:
        if isinstance(event, Summary):
            found |= event.values
    return found


def test_pretraining_on_tokens_is_pretraining_on_their_documents(
    inputs: dict[str, Path], packed: tuple[list[Event], Path], tmp_path: Path
) -> None:
    tokenizer = [inputs["tokenizer"]]
    on_tokens = train(tmp_path / "a", {"tokens": [packed[1]], "tokenizer": tokenizer})
    on_documents = train(tmp_path / "b", {"documents": [inputs["documents"]], "tokenizer": tokenizer})
    assert small.curves(on_tokens) == small.curves(on_documents)
    weights = [(tmp_path / name / "checkpoint/model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_datasets_are_mixed_by_weight_and_their_epochs_told(
    inputs: dict[str, Path], packed: tuple[list[Event], Path], tmp_path: Path
) -> None:
    other = small.documents(tmp_path / "other", [f"A dog has {n} stones. " * 3 for n in range(200)])
    pack(tmp_path / "packed", {**inputs, "documents": other})
    given = {"tokens": [packed[1], tmp_path / "packed/tokens"], "tokenizer": [inputs["tokenizer"]]}
    told = summary(train(tmp_path / "out", given, weights=[3, 1]))
    shares = [(dataset["share"], dataset["epochs"]) for dataset in told["datasets"]]
    assert [share for share, _ in shares] == [0.75, 0.25]
    for (share, epochs), tokens in zip(shares, given["tokens"], strict=True):
        n_windows = (Tokens(tokens, "train").n_tokens - 1) // 32 - 1
        assert epochs == round(share * 16 * 4 / n_windows, 2)
    several = {"documents": [inputs["documents"], other], "tokenizer": [inputs["tokenizer"]]}
    assert [one["name"] for one in summary(train(tmp_path / "plain", several))["datasets"]] == [
        "texts",
        "texts",
    ]


def test_tokens_of_another_tokenizer_are_refused_in_one_sentence(
    packed: tuple[list[Event], Path], tmp_path: Path
) -> None:
    writer = artifact.Writer(
        tmp_path / "tokenizer", id="t-other", kind="tokenizer", name="other", origin=small.ORIGIN
    )
    Tokenizer.train(small.SENTENCES[::2], 300).save(writer.path)
    writer.finish()
    with pytest.raises(UserError, match="was packed with the tokenizer tok") as caught:
        train(tmp_path / "out", {"tokens": [packed[1]], "tokenizer": [tmp_path / "tokenizer"]})
    assert caught.value.field == "tokens" and "other (t-other) gives other ids" in caught.value.message


def test_a_tokenizer_laid_out_otherwise_is_the_same(
    inputs: dict[str, Path], packed: tuple[list[Event], Path], tmp_path: Path
) -> None:
    writer = artifact.Writer(
        tmp_path / "tokenizer", id="t-same", kind="tokenizer", name="same", origin=small.ORIGIN
    )
    content = json.loads((inputs["tokenizer"] / "tokenizer.json").read_text())
    (writer.path / "tokenizer.json").write_text(json.dumps(dict(reversed(content.items()))))
    writer.finish()
    given = {"tokens": [packed[1]], "tokenizer": [tmp_path / "tokenizer"]}
    assert small.curves(train(tmp_path / "out", given, steps=2))["loss"]


def test_what_to_read_is_given_once_and_weighted_once(
    inputs: dict[str, Path], packed: tuple[list[Event], Path], tmp_path: Path
) -> None:
    tokenizer = [inputs["tokenizer"]]
    both = {"documents": [inputs["documents"]], "tokens": [packed[1]], "tokenizer": tokenizer}
    with pytest.raises(UserError, match="either documents or tokens"):
        train(tmp_path / "a", both)
    with pytest.raises(UserError, match="needs the input 'documents'"):
        train(tmp_path / "b", {"tokenizer": tokenizer})
    with pytest.raises(UserError, match="2 weights for 1 datasets") as caught:
        train(tmp_path / "c", {"tokens": [packed[1]], "tokenizer": tokenizer}, weights=[1, 2])
    assert caught.value.field == "weights"
    with pytest.raises(UserError, match="weights"):
        read_config(pretrain.RECIPE, {"weights": [1, 0]})


def test_a_report_card_keeps_to_the_text_that_the_tokens_kept_back(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    from core_ml.recipes.evaluate import EvaluateConfig, _val_share

    pack(tmp_path / "packed", inputs, val_share=0.2)
    given = {"tokens": [tmp_path / "packed/tokens"], "tokenizer": [inputs["tokenizer"]]}
    train(tmp_path / "out", given, steps=2, val_share=0.4)
    checkpoint = Folder(tmp_path / "out/checkpoint")
    place = Workspace(
        tmp_path / "e", tmp_path / "s", {"checkpoints": [checkpoint]}, small.ORIGIN, "e", "test"
    )
    assert _val_share(EvaluateConfig(), place) == 0.2
