"""Rows of the small datasets on disk."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core_ml import artifact
from core_ml.errors import UserError
from core_ml.tasks import rows as rows_module
from core_ml.tasks.rows import SCHEMAS, RowWriter, read_rows, write_rows
from tests.core_ml.models import write_dataset


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [
        {
            "group_id": f"g{i}",
            "prompt": "Grüße, 世界?",
            "completions": ["a", ""],
            "logprobs": [[-0.5, -1.0], []],
            "ended": [True, False],
            "metadata": {"task": "add", "number": i},
        }
        for i in range(5)
    ]
    folder = write_dataset(tmp_path, "rollouts", rows)
    assert list(read_rows(folder, SCHEMAS["rollouts"].names, input="rollouts")) == rows


def test_a_file_is_written_in_batches_and_read_as_one(tmp_path):
    writer = RowWriter(tmp_path / "prompts.parquet", "prompts")
    for begin in (0, 3):
        writer.write({"prompt": str(begin + i)} for i in range(3))
    writer.close()
    assert writer.n_rows == 6
    assert pq.read_table(tmp_path / "prompts.parquet")["prompt"].to_pylist() == list("012345")


def test_a_whole_file_is_written_group_by_group_while_its_rows_are_made(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "ROWS_IN_GROUP", 4)
    written, events = RowWriter.write, []

    def made():
        for i in range(10):
            events.append("row")
            yield {"prompt": str(i)}

    def write(self, rows):
        written(self, rows)
        events.append("group")

    monkeypatch.setattr(RowWriter, "write", write)
    assert write_rows(tmp_path / "p.parquet", "prompts", made()) == 10
    assert events == ["row"] * 4 + ["group"] + ["row"] * 4 + ["group"] + ["row"] * 2 + ["group"]
    assert pq.ParquetFile(tmp_path / "p.parquet").num_row_groups == 3
    assert pq.read_table(tmp_path / "p.parquet")["prompt"].to_pylist() == list("0123456789")


def folder_of(path, write):
    writer = artifact.Writer(
        path / "x", id="x", kind="dataset", form="problems", name="mine", origin=artifact.Origin(recipe="t")
    )
    write(writer.path / "problems.parquet")
    writer.finish()
    return artifact.Folder(path / "x")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"PAR1 and then nothing"), "is not Parquet"),
        (lambda path: pq.write_table(pa.table({"question": ["?"]}), path), "lacks the column 'prompt'"),
        (lambda path: pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), path), "has no rows"),
        (lambda path: path.with_suffix(".txt").write_text("x"), "has no Parquet file"),
    ],
)
def test_a_file_that_will_not_do_is_told_in_one_sentence_that_names_the_input(tmp_path, write, message):
    with pytest.raises(UserError, match=message) as refused:
        list(read_rows(folder_of(tmp_path, write), ["prompt"], input="problems"))
    assert refused.value.field == "problems"


@pytest.mark.parametrize("metadata", [None, "not json", "[1]", json.dumps({"task": "add"})])
def test_metadata_that_is_no_json_object_counts_as_none(tmp_path, metadata):
    table = pa.table({"prompt": ["?"], "metadata": pa.array([metadata], pa.string())})
    (row,) = read_rows(
        folder_of(tmp_path, lambda path: pq.write_table(table, path)), ["prompt"], input="problems"
    )
    assert row["metadata"] == ({"task": "add"} if metadata and "task" in metadata else {})
