"""Small real artifacts and runs for the tests of the API."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from django.conf import settings

from core_ml.artifact import Origin, Writer
from lab.models import Account, Artifact, Project, Ranking, Run
from lab.services import artifacts, forms, labeling

FOUR = ["one", "two", "three", "four"]
BEST_FIRST = [[0], [1], [2], [3]]


def rank(project: Project, account: Account, order: list[list[int]] = BEST_FIRST, **more: Any) -> Ranking:
    """The next group of a project, ranked by this labeler."""
    group = labeling.next_group(project, account)
    assert group is not None
    return labeling.hand_in(group, account, order, **more)


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


def tokens(texts: list[str], uid: str = "0000dddd") -> Artifact:
    """What the recipe makes of documents, which stand in the lab beside it."""
    from core_ml import artifact
    from core_ml.execute import execute, read_config
    from core_ml.recipes.pack import RECIPE
    from core_ml.workspace import Workspace

    rows = [{"id": str(n), "url": f"https://a.example/{n}", "text": text} for n, text in enumerate(texts)]
    given = {
        "documents": [dataset("documents", rows, f"{uid[:-1]}1")],
        "tokenizer": [tokenizer(f"{uid[:-1]}2")],
    }
    inputs = {
        name: [artifact.Folder(artifacts.local_path(one)) for one in found] for name, found in given.items()
    }
    ids = {name: [one.pk for one in found] for name, found in given.items()}
    out = Path(settings.ARTIFACT_ROOT) / uid
    place = Workspace(out, out / ".state", inputs, Origin(recipe="pack", inputs=ids), uid, "packed")
    list(execute(RECIPE, read_config(RECIPE, {"val_share": 0.2}), place))
    return artifacts.adopt(out / "tokens")


def _writer(uid: str, output: str, **fields: Any) -> Writer:
    target = Path(settings.ARTIFACT_ROOT) / uid / output
    return Writer(target, id=f"{uid}-{output}", origin=Origin(recipe="import"), **fields)


def run(status: str = "running", **fields: Any) -> Run:
    return Run.objects.create(**{"kind": "pretrain", "name": "a run", "status": status, **fields})
