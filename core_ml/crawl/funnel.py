"""The count of a crawl: for each of the eight stages, what came in, stayed, was dropped (by which rule) or failed."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from core_ml.crawl.rules import STAGES


@dataclass
class Row:
    entered: int = 0
    kept: int = 0
    dropped: int = 0
    failed: int = 0
    changed: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)


class Funnel:
    """Counted while pages pass. `rules` holds the pages dropped or failed by reason, `lines` the lines removed."""

    def __init__(self) -> None:
        self.rows = {stage.name: Row() for stage in STAGES}

    def enter(self, stage: str) -> None:
        self.rows[stage].entered += 1

    def keep(self, stage: str) -> None:
        self.rows[stage].kept += 1

    def drop(self, stage: str, rule: str) -> None:
        self.rows[stage].dropped += 1
        self.rows[stage].rules[rule] += 1

    def fail(self, stage: str, reason: str) -> None:
        self.rows[stage].failed += 1
        self.rows[stage].rules[reason] += 1

    def remove_lines(self, stage: str, lines: dict[str, int]) -> None:
        self.rows[stage].lines.update(lines)
        self.rows[stage].changed += any(lines.values())

    def change(self, stage: str) -> None:
        self.rows[stage].changed += 1

    def merge(self, rows: Iterable[dict[str, Any]]) -> None:
        for told in rows:
            row = self.rows[told["stage"]]
            row.entered += told["in"]
            row.kept += told["kept"]
            row.dropped += told["dropped"]
            row.failed += told["failed"]
            row.changed += told["changed"]
            row.rules.update(told["rules"])
            row.lines.update(told["lines"])

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {
                "stage": stage.name,
                "title": stage.title,
                "looks_for": stage.looks_for,
                "in": row.entered,
                "kept": row.kept,
                "dropped": row.dropped,
                "failed": row.failed,
                "changed": row.changed,
                "rules": dict(row.rules.most_common()),
                "lines": dict(row.lines.most_common()),
            }
            for stage, row in ((stage, self.rows[stage.name]) for stage in STAGES)
        ]

    def check(self, n_pages: int, n_documents: int) -> None:
        """Our own invariant: no page is lost or counted twice between being read and being kept."""
        came = n_pages
        for name, row in self.rows.items():
            assert row.entered == came, f"{name}: {row.entered} came in, {came} were left by the stage before"
            assert row.entered == row.kept + row.dropped + row.failed, f"{name}: {row}"
            assert sum(row.rules.values()) == row.dropped + row.failed, f"{name}: {row}"
            came = row.kept
        assert came == n_documents, f"{came} pages left the last stage, {n_documents} documents were written"

    def biggest_loss(self) -> tuple[str, int]:
        """The rule that dropped most, for the sentence that tells why nothing is left."""
        everything: Counter[str] = Counter()
        for row in self.rows.values():
            everything.update(row.rules)
        return everything.most_common(1)[0] if everything else ("", 0)
