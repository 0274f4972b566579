"""result.json: one shape for every run of every mechanism. What is not known is null, never 0."""

from collections.abc import Mapping
from copy import deepcopy
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ["SHAPE", "VIOLATIONS", "assemble", "package_version", "verdict"]

#: Names of violations, as the checker defines them (`pagehop_tb/checker`).
VIOLATIONS = ("lost", "duplicated", "stale", "reordered", "torn", "misdirected", "invented", "stuck", "masked")

_PERCENTILES = {"p50": None, "p99": None, "max": None}
_SIDES = {"upstream": None, "downstream": None}

#: Every key of a result with its value where it is not known. Durations are cycles of the fabric clock.
SHAPE: dict[str, Any] = {
    "scenario": None, "mechanism": None, "topology": None, "mode": None, "simulator": None, "seed": None, "trace": None, "config": {},
    "version": None,
    "pages": dict.fromkeys(("requested", "moved", "aborted", "retries")),
    "accesses": dict.fromkeys(("reads", "writes", "atomics", "messages", "bytes_read", "bytes_written")),
    "violations": dict.fromkeys(VIOLATIONS),
    "checked": dict.fromkeys(("events", "edges", "read_bytes", "final_bytes")),
    "cycles": None, "clock_ns": None,
    "move_cycles": dict(_PERCENTILES), "hold_cycles": dict(_PERCENTILES),     # each its own: copies of one would be one
    "latency_cycles": {}, "litmus": {}, "values": {},
    "wire_share": _SIDES, "fences": dict.fromkeys(("count", "cycles")),
    "dirty": dict.fromkeys(("pages_written", "pages_reported", "missed", "false_positive")),
    "wall_seconds": None, "cycles_per_second": None,
}

#: Sections whose keys the bench chooses.
_OPEN = ("config", "latency_cycles", "litmus", "values")


def package_version() -> str | None:
    """Return the version of the installed package, None where it runs from its sources without installation."""
    try:
        return version("pagehop")
    except PackageNotFoundError:
        return None


def assemble(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a whole result from ``parts``, later ones over earlier ones. A key that no result has is a mistake of its writer: ``ValueError``."""
    result = deepcopy(SHAPE)
    for part in parts:
        for name, value in part.items():
            if name not in SHAPE:
                raise ValueError(f"A result has no key {name!r}; it has {', '.join(SHAPE)}")
            if isinstance(SHAPE[name], dict) and value is not None:
                unknown = set() if name in _OPEN else set(value) - set(SHAPE[name])
                if unknown:
                    raise ValueError(f"A result's {name} has {', '.join(SHAPE[name])}, not {', '.join(sorted(unknown))}")
                result[name] |= value
            elif value is not None:
                result[name] = value
    if result["cycles_per_second"] is None and result["cycles"] is not None and result["wall_seconds"]:
        result["cycles_per_second"] = round(result["cycles"] / result["wall_seconds"])
    return result


def verdict(result: Mapping[str, Any], failures: Mapping[str, str]) -> list[str]:
    """Return the reasons for which a run is not good, empty when it is. What was not counted is a reason: silence proves nothing."""
    reasons = [f"{name}: {message}" for name, message in failures.items()]
    violations = result["violations"]
    reasons += [f"{violations[name]} accesses {name}" for name in VIOLATIONS if violations[name]]
    unknown = [name for name in VIOLATIONS if violations[name] is None]
    if unknown:
        reasons.append(f"no verdict on: {', '.join(unknown)}")
    pages = result["pages"]
    if pages["requested"] is None or pages["moved"] is None:
        reasons.append("the number of moved pages is not known")
    elif pages["moved"] + (pages["aborted"] or 0) < pages["requested"]:
        reasons.append(f"{pages['requested'] - pages['moved']} of {pages['requested']} pages did not move")
    return reasons
