"""Small real artifacts and runs for the tests of the API."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from django.conf import settings

from core_ml.artifact import Origin, Writer
from lab.models import Artifact, Run
from lab.services import artifacts, forms

FOUR = ["one", "two", "three", "four"]


def dataset(form: str, rows: list[dict[str, Any]], uid: str = "0000aaaa", name: str = "made") -> Artifact:
    writer = _writer(uid, form, kind="dataset", form=form, name=name)
    laid = [forms.lay_out(form, row, number, name) for number, row in enumerate(rows, 1)]
    pq.write_table(pa.Table.from_pylist(laid, forms.SCHEMAS[form]), writer.path / f"{form}.parquet")
    writer.finish({"rows": len(rows)})
    return artifacts.adopt(writer.target)


def rollouts(n_groups: int = 3, completions: list[str] = FOUR, uid: str = "0000bbbb") -> Artifact:
    rows = [
        {"group_id": f"g{i}", "prompt": f"prompt {i}", "completions": completions, "task": "add"}
        for i in range(n_groups)
    ]
    return dataset("rollouts", rows, uid, "answers")


def tokenizer(uid: str = "0000cccc") -> Artifact:
    from core_ml.tokenizer.tokenizer import Tokenizer

    writer = _writer(uid, "tokenizer", kind="tokenizer", name="letters")
    Tokenizer.train(["the cat sees the sea"] * 3, 280).save(writer.path / "tokenizer.json")
    writer.finish({"vocab_size": 280})
    return artifacts.adopt(writer.target)


def _writer(uid: str, output: str, **fields: Any) -> Writer:
    target = Path(settings.ARTIFACT_ROOT) / uid / output
    return Writer(target, id=f"{uid}-{output}", origin=Origin(recipe="import"), **fields)


def run(status: str = "running", **fields: Any) -> Run:
    return Run.objects.create(**{"kind": "pretrain", "name": "a run", "status": status, **fields})
