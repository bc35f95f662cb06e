"""Which preference set some files are: told from the columns of their first rows.

A set of one file is read wherever a dataset is brought in. A set of several, which keeps votes apart from texts, is
read when all that it needs is brought together: the folder, or its files in one upload.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core_ml.feedback.sets import joined, openassistant, pairs, trl
from core_ml.feedback.sets.ranked import Read, Row, Source, each

Parts = Mapping[str, Sequence[Source]]


@dataclass(frozen=True, slots=True)
class Known:
    """A form of preference set: by part the columns that tell it, which parts it cannot do without, and its reader."""

    name: str
    parts: Mapping[str, tuple[str, ...]]
    needed: tuple[str, ...]
    read: Callable[[Parts], Read]

    @property
    def is_one_file(self) -> bool:
        return len(self.parts) == 1

    def needs(self) -> str:
        return "; ".join(f"{part} with {', '.join(self.parts[part])}" for part in self.needed)


def _rows(reader: Callable[[Row, int], Any]) -> Callable[[Parts], Read]:
    def read(parts: Parts) -> Read:
        sources = parts["rows"]
        for source in sources:
            yield from each(source, reader, named=len(sources) > 1)

    return read


def _one(name: str, columns: tuple[str, ...], reader: Callable[[Row, int], Any]) -> Known:
    return Known(name, {"rows": columns}, ("rows",), _rows(reader))


# The more a set demands, the earlier it stands: a row is of the first that fits.
KNOWN = (
    _one("PandaLM", ("instruction", "response1", "response2", "annotator1"), pairs.pandalm),
    _one("Auto-J", ("prompt", "response 1", "response 2", "label"), pairs.autoj),
    _one("OpenAssistant trees", ("message_tree_id", "prompt"), openassistant.read),
    _one("TRL preferences", ("chosen", "rejected"), trl.read),
    Known(
        "LLMFAO",
        {
            "votes": ("id", "model_x", "model_y", "winner"),
            "training": ("id", "result_x", "result_y", "golden"),
            "pairs": ("id", "text", "result_x", "result_y"),
            "results": ("id", "model", "prompt", "result"),
            "prompts": ("id", "text", "slug"),
            "models": ("id", "api_id", "name"),
        },
        ("votes",),
        joined.llmfao,
    ),
    Known(
        "MT-bench",
        {
            "votes": ("question_id", "model_a", "model_b", "winner", "judge"),
            "answers": ("question_id", "model_id", "choices"),
            "questions": ("question_id", "turns"),
        },
        ("votes", "questions"),
        joined.mtbench,
    ),
    Known(
        "AlpacaEval",
        {
            "votes": ("instruction_id", "model_1", "model_2", "judge", "preference"),
            "outputs": ("instruction_id", "instruction", "outputs"),
        },
        ("votes", "outputs"),
        joined.alpacaeval,
    ),
)


def part_of(row: Any) -> tuple[Known, str] | None:
    """The set and the part of it that a file with this first row is."""
    if not isinstance(row, dict):
        return None
    for known in KNOWN:
        for part, columns in known.parts.items():
            if all(name in row for name in columns):
                return known, part
    return None


def whole(found: Sequence[tuple[Known, str, Source]]) -> tuple[Known, Parts]:
    """The one set that some files are together.

    Raises: ValueError when they are of several sets, or when a part is missing, with what to bring.
    """
    sets = {known.name: known for known, _, _ in found}
    if len(sets) != 1:
        named = ", ".join(sets) or "none"
        raise ValueError(f"these files are of {len(sets)} preference sets ({named}): bring the files of one")
    (known,) = sets.values()
    parts: dict[str, list[Source]] = {}
    for _, part, source in found:
        parts.setdefault(part, []).append(source)
    missing = [part for part in known.needed if part not in parts]
    if missing:
        columns = "; ".join(f"{part} with {', '.join(known.parts[part])}" for part in missing)
        raise ValueError(
            f"{known.name} keeps votes and texts apart, and a file is missing ({columns}): bring the whole folder"
        )
    return known, parts
