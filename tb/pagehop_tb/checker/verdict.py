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

    ``windows`` are the first and last clock cycles of the circles of accesses that were found, ``hazards`` the hazards they look like. The caller
    sets ``seed`` and ``command`` (that which runs the same again): only it knows them.
    """

    violations: dict[str, int] = field(default_factory=lambda: dict.fromkeys(VIOLATIONS, 0))
    stories: list[str] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=lambda: {"events": 0, "edges": 0, "read_bytes": 0, "final_bytes": 0})
    dirty: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(("pages_written", "pages_reported", "missed", "false_positive")))
    accesses: dict[str, int] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    commits: list[tuple[int, int, int]] = field(default_factory=list)
    hazards: list[str] = field(default_factory=list)
    windows: list[tuple[int, int]] = field(default_factory=list)
    seed: int | None = None
    command: str = ""

    @property
    def ok(self) -> bool:
        """True when nothing was violated."""
        return not any(self.violations.values())

    def add(self, name: str, story: str, count: int = 1) -> None:
        """Count ``count`` violations of ``name`` and keep the story of the first few."""
        if self.violations[name] < STORIES:
            self.stories.append(f"{name}: {story}")
        self.violations[name] += count

    def add_circle(self, name: str, hazard: str, story: str, window: tuple[int, int], counted: bool) -> None:
        """Tell a circle of accesses, and count it unless one of them has been counted already."""
        self.windows.append(window)
        if hazard:
            self.hazards.append(hazard)
        if counted:
            self.add(name, story)
        elif len(self.windows) <= STORIES:
            self.stories.append(f"{name}, counted above: {story}")

    def text(self) -> str:
        """The verdict for a terminal: counts, then stories, then how to see a bad run again."""
        head = ", ".join(f"{name} {count}" for name, count in self.violations.items())
        again = []
        if not self.ok:
            again += [f"cycles to look at: {first} to {last}" for first, last in self.windows[:STORIES]]
            again += [f"seed {self.seed}"] if self.seed is not None else []
            again += [f"to see it again: {self.command}"] if self.command else []
        return "\n".join([head, *self.stories, *again])

    def as_result(self) -> dict[str, Any]:
        """The parts of ``result.json`` that a checker knows."""
        return {"violations": self.violations, "checked": self.checked, "dirty": self.dirty, "accesses": self.accesses, **self.measured}
