"""Documents to shards, shards to batches, and the models that only count."""

import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core_ml.errors import UserError
from core_ml.training import packing, split
from core_ml.training.baselines import NGrams, count
from core_ml.training.batches import Batches
from core_ml.training.packing import pack
from core_ml.training.tokens import Tokens
from tests.core_ml import small


def packed(folder: Path, texts: list[str] | None = None, val_share: float = 0.1) -> Path:
    path = small.documents(folder / "documents", texts)
    list(pack([path / "documents-00000.parquet"], small.tokenizer(), folder / "tokens", val_share))
    return folder / "tokens"


def test_every_document_stands_on_one_side_after_its_bos(tmp_path: Path) -> None:
    folder, tokenizer = packed(tmp_path), small.tokenizer()
    wanted = pq.read_table(tmp_path / "documents/documents-00000.parquet")["text"].to_pylist()
    seen = []
    for side in ("train", "val"):
        tokens = Tokens(folder, side)
        ids = np.concatenate(tokens.shards)
        assert ids.dtype == np.uint16 and ids[0] == tokenizer.bos_id
        index = tokens.documents[0]
        assert index["start"].tolist() == np.flatnonzero(ids == tokenizer.bos_id).tolist()
        found = [tokenizer.decode(document) for document in np.split(ids, index["start"][1:].astype(int))]
        assert found == [wanted[row] for row in index["row"]]
        assert sum(len(text.encode()) for text in found) == tokens.n_bytes
        seen += index["row"].tolist()
    assert sorted(seen) == list(range(60)) and seen != sorted(seen)


def test_texts_alone_are_documents_enough(tmp_path: Path) -> None:
    path = tmp_path / "documents-00000.parquet"
    pq.write_table(pa.table({"text": ["The cat sees a tree.", None, "A dog.", "Nobody."]}), path)
    list(pack([path], small.tokenizer(), tmp_path / "tokens", 0.25))
    sides = [Tokens(tmp_path / "tokens", side).n_documents for side in ("train", "val")]
    assert sum(sides) == 3 and min(sides) > 0


def test_large_vocabularies_take_four_bytes_a_token(tmp_path: Path) -> None:
    assert packing.token_type(1 << 16) == np.dtype("<u2") and packing.token_type(70_000) == np.dtype("<u4")


def test_shards_are_cut_between_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SHARD_TOKENS", 200)
    tokens = Tokens(packed(tmp_path), "train")
    assert len(tokens.shards) > 3
    assert all(shard[0] == small.tokenizer().bos_id for shard in tokens.shards)
    batches = Batches([tokens], 16, 3, seed=0)
    assert batches.totals[0] == sum(max(1, (len(shard) - 1) // 16 - 1) for shard in tokens.shards)


def test_an_epoch_holds_every_window_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    tokens = Tokens(packed(tmp_path), "train")
    batches = Batches([tokens], 16, 1, seed=3)
    n = batches.totals[0]
    epochs = [[batches.batch(step).tobytes() for step in range(e * n + 1, (e + 1) * n + 1)] for e in range(2)]
    ids = np.asarray(tokens.shards[0], dtype=np.int64)
    cuts = [[ids[o + 16 * k : o + 16 * k + 17].tobytes() for k in range(n)] for o in range(17)]
    for epoch in epochs:
        assert any(Counter(epoch) == Counter(windows) for windows in cuts)
        assert epoch not in cuts
    assert epochs[0] != epochs[1]


def test_a_batch_follows_from_seed_and_step_alone(tmp_path: Path) -> None:
    tokens = Tokens(packed(tmp_path), "train")
    forward = [Batches([tokens], 16, 5, seed=1).batch(step) for step in (1, 40, 2)]
    batches = Batches([tokens], 16, 5, seed=1)
    assert np.array_equal(forward[1], batches.batch(40))
    assert np.array_equal(forward[0], batches.batch(1))
    assert not np.array_equal(forward[0], Batches([tokens], 16, 5, seed=2).batch(1))
    assert forward[0].shape == (5, 17) and forward[0].dtype == np.int64


def test_validation_windows_are_spread_over_all_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SHARD_TOKENS", 300)
    tokens = Tokens(packed(tmp_path), "train")
    shards = [np.asarray(shard, dtype=np.int64) for shard in tokens.shards]
    every = [s[at : at + 17] for s in shards for at in range(0, len(s) - 16, 16)]
    assert len(shards) > 2
    assert np.array_equal(tokens.spread(16, 10**9), np.stack(every))
    some = [every[k * len(every) // 10] for k in range(10)]
    assert np.array_equal(tokens.spread(16, 160), np.stack(some))
    assert np.array_equal(tokens.spread(1000, 160), shards[0][None])


def test_tokens_go_to_the_disk_piece_by_piece_however_long_a_document_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [" ".join(small.SENTENCES * n) for n in (2, 40, 3, 30)]
    whole = packed(tmp_path / "whole", texts, 0.25)
    monkeypatch.setattr("core_ml.tokenizer.tokenizer.PIECE_CHARS", 500)
    monkeypatch.setattr("core_ml.tokenizer.tokenizer.BATCH_CHARS", 2000)
    added, as_bytes = [], packing._as_bytes
    monkeypatch.setattr(
        packing, "_as_bytes", lambda ids, dtype: added.append(len(ids)) or as_bytes(ids, dtype)
    )
    parts = packed(tmp_path / "parts", texts, 0.25)
    # A token has one character at least, and a piece ends with the word in which its 500 are full.
    assert max(added) < 520 and len(added) > 100
    for path in whole.iterdir():
        assert path.read_bytes() == (parts / path.name).read_bytes()


def test_windows_longer_than_the_text_are_refused(tmp_path: Path) -> None:
    tokens = Tokens(packed(tmp_path), "train")
    with pytest.raises(UserError, match="choose a smaller seq_len") as caught:
        Batches([tokens], tokens.n_tokens, 1, seed=0)
    assert caught.value.field == "seq_len"


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ([], "are empty"),
        (["", ""], "none is left for training"),
        (["The only one."], "none is left for training|none is left for validation"),
    ],
)
def test_too_few_documents_are_told(tmp_path: Path, texts: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        packed(tmp_path, texts)
    assert caught.value.field == "documents"


def test_a_damaged_file_of_documents_is_named(tmp_path: Path) -> None:
    (tmp_path / "documents-00000.parquet").write_bytes(b"PAR1 no, it is not")
    with pytest.raises(UserError, match=r"documents-00000\.parquet is damaged"):
        packing.pieces([tmp_path / "documents-00000.parquet"])


def test_validation_takes_whole_hosts_whatever_else_the_corpus_holds() -> None:
    documents = [(f"https://host{i % 40}.example/{i}", str(i), 100) for i in range(400)]
    chosen = split.choose(documents, 0.1)
    assert chosen.level == "host"
    sides = {url.split("/")[2]: chosen.is_validation(url, id) for url, id, _ in documents}
    assert all(sides[url.split("/")[2]] == chosen.is_validation(url, id) for url, id, _ in documents)
    assert sum(sides.values()) == 4  # of 40 hosts of one size
    assert split.choose(reversed(documents), 0.1) == chosen


def test_a_corpus_of_one_host_is_split_by_page() -> None:
    pages = [(f"http://localhost/mod{i % 50}.part{i}.html", str(i), 100) for i in range(200)]
    chosen = split.choose(pages, 0.1)
    assert chosen.level == "page" and chosen.chosen is not None and len(chosen.chosen) == 5
    assert chosen.is_validation("http://localhost/mod7.x.html", "a") == chosen.is_validation(
        "http://localhost/mod7.html", "b"
    )


@pytest.mark.parametrize("url", ["", "http://[", "no address"])
def test_documents_without_an_address_are_split_one_by_one(url: str) -> None:
    chosen = split.choose([(url, str(i), 100) for i in range(30)], 0.1)
    assert sum(chosen.is_validation(url, str(i)) for i in range(30)) == 3


def test_more_groups_than_fit_in_memory_are_split_by_their_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "MAX_KEYS", 100)
    chosen = split.choose(((f"https://h{i}.example/", str(i), 1) for i in range(3000)), 0.1)
    assert chosen.chosen is None
    share = sum(chosen.is_validation(f"https://h{i}.example/", "") for i in range(3000)) / 3000
    assert share == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("max_keys", [200_000, 50])
def test_the_split_of_parts_put_together_is_that_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, max_keys: int
) -> None:
    monkeypatch.setattr(split, "MAX_KEYS", max_keys)
    documents = [(f"https://host{i % 40}.example/{i}", str(i), 100 + i % 7) for i in range(400)]
    whole = split.Sizes()
    for begin in range(0, 400, 90):
        part = split.Sizes()
        for document in documents[begin : begin + 90]:
            part.add(*document)
        whole.merge(split.Sizes.from_json(json.loads(json.dumps(part.to_json()))))
    chosen = whole.split(0.1)
    assert chosen == split.choose(documents, 0.1)
    assert split.Split.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen


def test_unigram_and_bigram_are_what_counting_by_hand_gives() -> None:
    ngrams = NGrams(4)
    ngrams.add(np.array([0, 1, 0, 1, 0, 2]))
    # Unigram, add-one: token 1 was seen 2 times of 6, so (2 + 1) / (6 + 4); token 3 never, so 1 / 10.
    # After 0 stood 1 twice and 2 once: 3 followers of 2 kinds. So P(1 | 0) = (2 + 2 · 0.3) / (3 + 2) = 0.52,
    # P(3 | 0) = (0 + 2 · 0.1) / 5 = 0.04, and after 3, never seen, the unigram holds.
    unigram, bigram = ngrams.nll(np.array([[0, 1], [0, 3], [3, 1]]))
    assert unigram == pytest.approx(-math.log(0.3 * 0.1 * 0.3))
    assert bigram == pytest.approx(-math.log(0.52 * 0.04 * 0.3))


def test_counting_in_chunks_is_counting_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens(packed(tmp_path), "train")
    ids = np.asarray(tokens.shards[0]).tolist()
    monkeypatch.setattr("core_ml.training.baselines.CHUNK", 100)
    *_, ngrams = count(tokens.shards, 320)
    pairs = Counter(a * 320 + b for a, b in pairwise(ids))
    assert dict(zip(ngrams.pairs.tolist(), ngrams.counts.tolist(), strict=True)) == pairs
    assert {i: n for i, n in enumerate(ngrams.unigrams.tolist()) if n} == Counter(ids)


def test_the_bigram_probabilities_of_all_followers_sum_to_one(tmp_path: Path) -> None:
    *_, ngrams = count(Tokens(packed(tmp_path), "train").shards, 320)
    for context in (0, 5, 300):
        windows = np.array([[context, token] for token in range(320)])
        total = sum(math.exp(-ngrams.nll(windows[k : k + 1])[1]) for k in range(320))
        assert total == pytest.approx(1.0)
