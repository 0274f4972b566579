"""What every bench shares: its configuration, its seed, its progress, its part of the result."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

__all__ = ["BenchConfig"]

#: Seconds between two lines of progress.
PROGRESS_SECONDS = 0.2


class BenchConfig:
    """The file that ``PAGEHOP_CONFIG`` names, and the way back to who wrote it.

    ``parameters`` are what the scenario sets: :meth:`get` reads one with its default, and :meth:`refuse_unknown` refuses what no bench asked for.
    ``defaults`` are those of a bench for which the usual ones of what it is made of will not do.
    """

    def __init__(self, bench: str, defaults: Mapping[str, Any] | None = None) -> None:
        name = os.environ.get("PAGEHOP_CONFIG")
        if not name:
            raise RuntimeError("PAGEHOP_CONFIG must name the configuration of the run; start benches through pagehop_sim")
        given = json.loads(Path(name).read_text(encoding="utf-8"))
        self.bench = bench
        self.seed: int = given["seed"]
        self.trace: str | None = given.get("trace")
        self.data_bytes: int = given.get("hardware", {}).get("data_bytes", 64)
        self.chunk_bytes: int = given.get("hardware", {}).get("chunk_bytes", 128)
        self.hosts: int = given.get("hardware", {}).get("hosts", 2)
        self.in_row: bool = given.get("hardware", {}).get("in_row", False)
        self.ecrc: str = given.get("hardware", {}).get("ecrc", "outside")
        self.tags: int = given.get("hardware", {}).get("tags", 0)
        self.slots: int = given.get("hardware", {}).get("slots", 1)
        self.windows: int = given.get("hardware", {}).get("windows", 4)
        self.leaves: int = given.get("hardware", {}).get("leaves", 512)
        self.modify: bool = given.get("hardware", {}).get("modify", False)
        self.covered_pages: int = given.get("hardware", {}).get("window_pages", 262144)
        self.parameters: dict[str, Any] = {**(defaults or {}), **given.get("parameters", {})}
        self._asked: set[str] = set()
        self._result_file = Path(given["result_file"])
        self._progress_file = Path(given["progress_file"])
        self._last_progress = 0.0
        print(f"{bench}: seed {self.seed}")

    def get(self, name: str, default: Any) -> Any:
        """Parameter ``name``; its type is that of ``default``."""
        self._asked.add(name)
        value = self.parameters.get(name, default)
        if default is not None and not isinstance(value, type(default)) and not (isinstance(default, float) and isinstance(value, int)):
            raise ValueError(f"Parameter {name} of {self.bench} must be of type {type(default).__name__}, not {value!r}")
        return value

    def refuse_unknown(self) -> None:
        """Raise for parameters that nobody asked for: they would have had no effect."""
        unknown = sorted(set(self.parameters) - self._asked)
        if unknown:
            raise ValueError(f"{self.bench} knows no parameter {', '.join(unknown)}; it knows {', '.join(sorted(self._asked))}")

    def random(self, what: str) -> Random:
        """A random source of its own for ``what``, the same in every run with this seed."""
        return Random(f"{self.seed}/{self.bench}/{what}")

    def number(self, what: str) -> int:
        """A seed for ``what``."""
        return self.random(what).getrandbits(32)

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Tell who follows the run; most calls cost nothing."""
        now = time.monotonic()
        if done < total and now - self._last_progress < PROGRESS_SECONDS:
            return
        self._last_progress = now
        with self._progress_file.open("a", encoding="utf-8") as output:
            output.write(json.dumps({"done": done, "total": total, "text": text}) + "\n")

    def write(self, result: dict[str, Any]) -> None:
        """Write the bench's part of the result; later calls, of the same or another test of the bench, add to it."""
        self._result_file.write_text(json.dumps(self._written() | result), encoding="utf-8")

    def write_values(self, values: dict[str, dict[str, Any]]) -> None:
        """Add measurements, as ``make bench`` prints them."""
        self.write({"values": self._written().get("values", {}) | values})

    def _written(self) -> dict[str, Any]:
        written: dict[str, Any] = json.loads(self._result_file.read_text(encoding="utf-8")) if self._result_file.exists() else {}
        return written
