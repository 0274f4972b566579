"""What is covered: every group is the cross of its points. No bin is left out without a reason, and a hit in a bin that has one is a failure.

Only names stand here, so that who merges and reports (pagehop_sim.coverage) reads the same table as who samples.
"""

from collections.abc import Iterator
from itertools import product

__all__ = ["GROUPS", "STOPPED_IN", "STOPS", "UNREACHABLE", "excluded", "rows"]

DIRECTION = ("to B", "to A")
HOSTS = ("Host A", "Host B")
REQUESTS = ("MWr", "MRd", "flush", "FetchAdd", "Swap", "CAS")
#: Where the page of an access stands when it is put on the device's link. It drains from the commit until the driver has learnt of the move's end.
STATES = ("at A", "at B", "held", "drains")
#: Byte enables: the names of :func:`pagehop_tb.uvm.shapes.shape_of`.
SHAPES = ("dword", "part of a dword", "dword with a hole", "no byte", "dwords", "first cut", "last cut", "both cut", "quad word with holes")
STOPS = ("unsupported", "completer_abort", "poisoned", "copy_timeout", "hold_timeout", "aborted", "cross_access", "opaque")
#: What a move that ended before its commit was doing: ``asked`` is before the hold.
STOPPED_IN = ("asked", "gate", "copy", "flush")
REFUSALS = ("not_in_window", "page_size", "misaligned", "already_there", "destination", "busy")

#: Group: what one sample is, and its points with their bins.
GROUPS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "requests": ("a request of the device, when it is put on its link", {
        "kind": (*REQUESTS, "MSI", "Msg"),
        "page": ("at A", "at B", "held to B", "held to A", "drains to B", "drains to A", "outside")}),
    "bytes": ("a write or read of the device to the window", {"kind": ("MWr", "MRd"), "enables": SHAPES, "page": STATES}),
    "attributes": ("a memory request of the device", {
        "kind": REQUESTS, "RO": ("-", "RO"), "IDO": ("-", "IDO"), "requester": ("nvme", "nic")}),
    "header": ("a memory request of the device, when it reaches a host: dwords of its header before and after", {
        "kind": REQUESTS, "dwords": ("3 to 3", "3 to 4", "4 to 4", "4 to 3")}),
    "destination": ("a TLP of the device, by the hosts of the last posted one before it and of itself", {
        "class": ("P", "NP", "C"), "change": ("none", "A to B", "B to A"), "fence": ("off", "on")}),
    "parts": ("an answer to the device: its completions", {
        "kind": ("read", "flush", "atomic"), "completions": ("1", "2 to 3", "4 and more"), "from": HOSTS}),
    "answers": ("an answer to the device, by where the page stands when its last completion arrives", {
        "kind": ("read", "atomic"), "status": ("SC", "UR", "CA", "poisoned"), "page": STATES}),
    "hosts": ("an access by a CPU through its port", {
        "access": ("aperture store", "aperture load", "aperture flush", "doorbell", "device register", "config read", "config write",
                   "register write", "register read"), "by": HOSTS}),
    "configuration": ("the answer to a configuration request", {
        "kind": ("read", "write"), "by": HOSTS, "answer": ("SC", "UR")}),
    "active host": ("what has no page, where it arrives", {
        "kind": ("MSI", "Msg", "MWr", "MRd", "atomic"), "at": HOSTS}),
    "moves": ("the end of a request for a move", {
        "error": ("none", *REFUSALS, *STOPS), "direction": DIRECTION}),
    "stops": ("a move that ended before its commit, by what it was doing then", {
        "error": STOPS, "phase": STOPPED_IN, "direction": DIRECTION}),
    "too late": ("a command while the page drains: it changes nothing", {"command": ("abort", "start"), "direction": DIRECTION}),
    "in flight": ("accesses of the device to the page that are not over when its hold begins", {
        "posted": ("no", "yes"), "read": ("no", "yes"), "atomic": ("no", "yes"), "direction": DIRECTION}),
    "harvests": ("a read of dirty bits", {
        "kind": ("take", "peek"), "while": ("no move", "held", "drains"), "finds": ("nothing", "pages")}),
}

#: Group, the bins that a pattern names (a point that it leaves out is any), and why no run can reach them.
UNREACHABLE: list[tuple[str, dict[str, tuple[str, ...]], str]] = [
    ("requests", {"kind": ("MSI", "Msg"), "page": ("at A", "at B", "held to B", "held to A", "drains to B", "drains to A")},
     "An interrupt goes to the MSI range, a hole in the window, and a message has no address: neither has a page."),
    ("parts", {"kind": ("flush", "atomic"), "completions": ("2 to 3", "4 and more")},
     "A zero-length read is answered with one dword, an AtomicOp with at most 8 bytes: neither crosses a read completion boundary (2.3.1.1)."),
    ("stops", {"error": ("unsupported", "completer_abort", "poisoned"), "phase": ("gate", "flush")},
     "These name the answer to a copy read, and copy reads are unanswered in the copy phase only; a bad answer to a flush is a copy_timeout."),
    ("stops", {"error": ("copy_timeout",), "phase": ("gate",)}, "Nothing has been asked of a host yet."),
    ("stops", {"error": tuple(stop for stop in STOPS if stop not in ("aborted", "opaque")), "phase": ("asked",)},
     "Nothing is held yet, so only an abort ends a move, or that none is allowed."),
]


def rows(group: str) -> Iterator[tuple[str, ...]]:
    """All bins of a group, as the names of its points' bins in their order."""
    return product(*GROUPS[group][1].values())


def excluded(group: str, row: tuple[str, ...]) -> str:
    """Why no run reaches this bin; empty where one can."""
    values = dict(zip(GROUPS[group][1], row, strict=True))
    for name, pattern, reason in UNREACHABLE:
        if name == group and all(values[point] in allowed for point, allowed in pattern.items()):
            return reason
    return ""
