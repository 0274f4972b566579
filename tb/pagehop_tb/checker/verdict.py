"""What a checker says about a run."""

from dataclasses import dataclass, field
from typing import Any

__all__ = ["VIOLATIONS", "Verdict"]

#: Names of failures, as correctness documents call them.
VIOLATIONS = ("lost", "duplicated", "stale", "reordered", "torn", "misdirected", "invented", "stuck", "masked")

#: Stories kept for a reader, of each name; the rest is only counted.
STORIES = 5


@dataclass
class Verdict:
    """Counts of violations by name, the first few told in words, and how much the verdict rests on.

    ``lost`` a write absent and superseded by nothing. ``duplicated`` performed twice, or an atomic twice. ``stale`` a read returned a value older
    than one that it had to see. ``reordered`` an order that PCIe promises was contradicted. ``torn`` one aligned access mixed two
    writes. ``misdirected`` performed outside the page's owner. ``invented`` a value nobody wrote. ``stuck`` no progress in time. ``masked`` an error
    became data.
    """

    violations: dict[str, int] = field(default_factory=lambda: dict.fromkeys(VIOLATIONS, 0))
    stories: list[str] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=lambda: {"events": 0, "edges": 0, "read_bytes": 0, "final_bytes": 0})
    dirty: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(("pages_written", "pages_reported", "missed", "false_positive")))
    accesses: dict[str, int] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    commits: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when nothing was violated."""
        return not any(self.violations.values())

    def add(self, name: str, story: str, count: int = 1) -> None:
        """Count ``count`` violations of ``name`` and keep the story of the first few."""
        if self.violations[name] < STORIES:
            self.stories.append(f"{name}: {story}")
        self.violations[name] += count

    def text(self) -> str:
        """The verdict for a terminal: counts, then stories."""
        head = ", ".join(f"{name} {count}" for name, count in self.violations.items())
        return "\n".join([head, *self.stories])

    def as_result(self) -> dict[str, Any]:
        """The parts of ``result.json`` that a checker knows."""
        return {"violations": self.violations, "checked": self.checked, "dirty": self.dirty, "accesses": self.accesses, **self.measured}
