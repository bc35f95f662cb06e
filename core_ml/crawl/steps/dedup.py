"""Compare the signatures of all pages in one place; which page stays depends only on the order of the files."""

import time
from collections.abc import Iterator

from core_ml.crawl.config import CrawlConfig
from core_ml.events import Event, Log
from core_ml.workspace import Workspace


def shards(config: CrawlConfig, workspace: Workspace) -> list[str]:
    return ["all"] if config.max_similarity is not None else []


def run_shard(shard: str, config: CrawlConfig, workspace: Workspace) -> Iterator[Event]:
    """Writes for each shard of `extract`, in the order of its living pages, their similarity and their leader's id.

    Memory: 448 bytes of signature and some 100 of bookkeeping for each page.
    """
    import numpy as np

    from core_ml.crawl import minhash
    from core_ml.crawl.table import read_columns

    folder = workspace.shard_dir
    assert folder is not None and config.max_similarity is not None
    began = time.monotonic()
    parts = workspace.shards("extract")
    counts, ids, signed = [], [], []
    for part in parts:
        signatures = np.load(part / "signatures.npy")
        alive = [id for id, kept in read_columns(part / "rows.parquet", "id", "kept") if kept]
        assert len(alive) == len(signatures), part
        counts.append(len(alive))
        ids.append(np.array(alive, dtype="S16"))
        signed.append(signatures)
    similarity, leader = minhash.cluster(np.concatenate(signed), config.max_similarity)
    all_ids = np.concatenate(ids)
    leaders = np.where(leader >= 0, all_ids[leader], b"")
    ends = np.cumsum(counts)
    for part, first, end in zip(parts, ends - counts, ends, strict=True):
        np.savez(folder / f"{part.name}.npz", similarity=similarity[first:end], leader=leaders[first:end])
    dropped = int((leader >= 0).sum())
    yield Log(
        f"compared {len(leader):,} pages in {time.monotonic() - began:.1f} s: {dropped:,} resemble an earlier one"
    )
