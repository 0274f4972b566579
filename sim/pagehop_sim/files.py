"""Files that are either whole or not there, and folders that one process fills at a time."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["content_hash", "locked", "read_json", "write_json", "write_text"]


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` whole: into a file beside it, which then takes its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON to ``path``, whole."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Return the value of a JSON file, or None where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def content_hash(*parts: str) -> str:
    """Return 16 hex digits that name these texts, in this order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:".encode())
        digest.update(part.encode())
    return digest.hexdigest()[:16]


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Make ``folder`` and hold it against other processes, which wait: two tests that need one build make it once."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield folder
