"""DMA traces: one access a line, ``device,op,address,length,kind``; the folder ``traces`` says what was recorded and how."""

import re
from dataclasses import dataclass
from pathlib import Path

from pagehop_sim.toolchain import ToolError

__all__ = ["PAGE", "Access", "TraceError", "find_trace", "read_trace"]

PAGE = 4096
HEADER = "device,op,address,length,kind"
KINDS = ("sqe", "cqe", "prp-list", "data", "msi", "tx-desc", "rx-desc", "tx-data", "rx-data")
FOLDER = Path(__file__).parent / "traces"


class TraceError(ToolError):
    """A line of a trace breaks the format: the message names file, line, what is allowed and what was found."""


@dataclass(frozen=True, slots=True)
class Access:
    """One DMA access of a device: ``op`` is ``W`` (the device writes guest memory) or ``R``, ``address`` is guest-physical, ``length`` in bytes."""

    device: str
    op: str
    address: int
    length: int
    kind: str


def find_trace(name: str) -> Path:
    """Return the file of a trace given by path, or by name when it is one of ours."""
    given = Path(name)
    if given.is_file():
        return given.resolve()
    ours = FOLDER / f"{given.name.removesuffix('.csv')}.csv"
    if given.name == name and ours.is_file():
        return ours
    known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.csv")))
    raise ToolError(f"Trace must be a file, or one of {known}, not {name!r}")


def read_trace(path: Path, window_bytes: int | None = None) -> list[Access]:
    """Return the accesses of the file ``path`` in order. With ``window_bytes``, what is no MSI must lie below it."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: a trace is a text file that can be read, and this is not: {error}") from error
    if not lines or lines[0] != HEADER:
        raise TraceError(f"{path}:1: the first line must be {HEADER!r}, not {lines[0] if lines else ''!r}")
    accesses = [_parse(line, f"{path}:{number}", window_bytes) for number, line in enumerate(lines[1:], 2) if line]
    if not accesses:
        raise TraceError(f"{path}: a trace must have at least one access, and this has none")
    return accesses


def _parse(line: str, where: str, window_bytes: int | None) -> Access:
    fields = line.split(",")
    if len(fields) != 5:
        raise TraceError(f"{where}: a line must have 5 fields ({HEADER}), not {len(fields)}: {line!r}")
    device, op, address_text, length_text, kind = fields
    if not re.fullmatch(r"[a-z][a-z0-9_]*", device):
        raise TraceError(f"{where}: device must be a name of small letters, digits and _, not {device!r}")
    if op not in ("W", "R"):
        raise TraceError(f"{where}: op must be W (the device writes memory) or R (it reads), not {op!r}")
    if not re.fullmatch(r"0x[0-9a-fA-F]{1,16}", address_text):
        raise TraceError(f"{where}: address must be hexadecimal with 0x and at most 16 digits, not {address_text!r}")
    if not re.fullmatch(r"[1-9][0-9]{0,3}", length_text) or int(length_text) > PAGE:
        raise TraceError(f"{where}: length must be 1 to {PAGE} bytes, not {length_text!r}")
    if kind not in KINDS:
        raise TraceError(f"{where}: kind must be one of {', '.join(KINDS)}, not {kind!r}")
    address, length = int(address_text, 16), int(length_text)
    if address % PAGE + length > PAGE:
        raise TraceError(f"{where}: an access must not cross a {PAGE}-byte page, and {length} bytes at {address:#x} do")
    if kind == "msi":
        if op != "W" or length != 4 or address % 4:
            raise TraceError(f"{where}: an msi must be an aligned write of 4 bytes, not {line!r}")
    elif window_bytes is not None and address + length > window_bytes:
        raise TraceError(f"{where}: address must lie in the page window, below {window_bytes:#x}, not {address:#x}")
    return Access(device, op, address, length, kind)
