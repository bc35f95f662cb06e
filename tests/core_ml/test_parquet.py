"""Rows of Parquet files, a few in memory at a time."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core_ml import parquet


def written(path: Path, texts: list[str], rows_in_group: int) -> Path:
    table = pa.table({"number": range(len(texts)), "text": texts})
    pq.write_table(table, path, row_group_size=rows_in_group, use_dictionary=False)
    return path


def test_rows_come_in_order_from_all_groups_or_from_some(tmp_path: Path) -> None:
    path = written(tmp_path / "x.parquet", [f"text {i}" for i in range(10)], 4)
    with parquet.open_file(path) as file:
        assert [row["number"] for row in parquet.rows(file)] == list(range(10))
        assert [row["number"] for row in parquet.rows(file, groups=[0, 2])] == [0, 1, 2, 3, 8, 9]
        assert list(parquet.rows(file, ["number"], [2])) == [{"number": 8}, {"number": 9}]


def test_long_rows_are_read_a_few_at_a_time_and_short_ones_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "BATCH_BYTES", 100_000)
    texts = [f"{i:05d}" * 5000 for i in range(64)]
    with parquet.open_file(written(tmp_path / "long.parquet", texts, 64)) as file:
        # 25,000 bytes a row, and a few of overhead: three rows are within 100,000 bytes and four are not.
        assert parquet.rows_at_once(file, 0) == 3
        assert [row["text"] for row in parquet.rows(file)] == texts
        monkeypatch.setattr(parquet, "BATCH_BYTES", 10)
        assert parquet.rows_at_once(file, 0) == 1
    with parquet.open_file(written(tmp_path / "short.parquet", ["a"] * 5000, 5000)) as file:
        monkeypatch.setattr(parquet, "BATCH_BYTES", 1 << 22)
        assert parquet.rows_at_once(file, 0) == parquet.BATCH_ROWS


def test_memory_does_not_follow_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "long.parquet", [f"{i:05d}" * 100_000 for i in range(64)], 4)
    before = pa.total_allocated_bytes()
    with parquet.open_file(path) as file:
        held = max(pa.total_allocated_bytes() - before for _ in parquet.rows(file))
    # 32 MB in groups of 2 MB; Arrow has a group's page and the batch made of it, and decodes one page ahead.
    assert held < 8_000_000
