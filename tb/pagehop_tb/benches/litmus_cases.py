"""The litmus cases: every row of the table of ordering rules that one interposer with one device port and two hosts can run (figure 7A).

In an outcome ``cX=0`` says that the CPU ``c`` read the old value of X; ``X=2`` that value 2 was left there. ``c`` is the CPU that takes part (each in
turn), ``o`` the other one, ``D`` and ``E`` are functions behind the device's port.
"""

from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from pagehop_tb.benches.litmus_round import Round

__all__ = ["CASES", "LEFT_OUT", "NOT_RUN", "Case", "LeftOut", "Variant", "chosen", "variants"]

Actor = Callable[[Round, str], Coroutine[Any, Any, None]]
Seen = Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Case:
    """One case. ``row`` is that of the table, ``rules`` what makes it hold, ``actors`` who does what, ``forbidden`` what must never be seen.

    ``fails`` tells for a placement and a CPU whether it must be seen all the same, because the table says that it fails there; ``fence``: the
    fence policy ends that. Not ``promised``: PCIe promises nothing anywhere, not on one host either. ``cpus`` are those that take the part of ``c``;
    ``active``: it must be the CPU of the active host. ``posted``: holds also when stores through an aperture are not read back. ``repeats``: rounds
    for each of another case, where little happens at the right time.
    """

    name: str
    row: str
    rules: tuple[str, ...]
    actors: Mapping[str, Actor]
    forbidden: Callable[[Seen], bool]
    locations: str = "XY"
    cpus: str = "ab"
    active: bool = False
    posted: bool = False
    fails: Callable[[str, str], bool] | None = None
    fence: bool = False
    promised: bool = True
    repeats: int = 1


@dataclass(frozen=True)
class Variant:
    """A case with its locations placed, and with one of the CPUs. ``fails``: the outcome must be seen, in a long enough run."""

    case: Case
    placement: str
    cpu: str

    @property
    def label(self) -> str:
        """For instance ``XY=AB a``."""
        return f"{self.case.locations}={self.placement} {self.cpu if len(self.case.cpus) > 1 else '-'}"

    def fails(self, fence: bool) -> bool:
        """Whether the table says that this one fails."""
        return self.case.fails is not None and self.case.fails(self.placement, self.cpu) and not (fence and self.case.fence)


# What agents do.

async def data_flag(r: Round, who: str) -> None:
    await r.write(who, "X")
    await r.write(who, "Y")


async def data_flag_again(r: Round, who: str) -> None:
    await r.write(who, "X")
    await r.write(who, "Y", 2)


async def flag_data_again(r: Round, who: str) -> None:
    await r.write(who, "Y")
    await r.write(who, "X", 2)


async def relaxed_data_flag(r: Round, who: str) -> None:
    await r.write(who, "X", ro=True)
    await r.write(who, "Y")


async def data_relaxed_flag(r: Round, who: str) -> None:
    await r.write(who, "X")
    await r.write(who, "Y", ro=True)


async def data_atomic_flag(r: Round, who: str) -> None:
    await r.write(who, "X")
    await r.swap(who, "Y")


async def data_relaxed_atomic(r: Round, who: str) -> None:
    await r.write(who, "X")
    await r.swap(who, "Y", ro=True)


async def data_interrupt(r: Round, who: str) -> None:
    await r.write(who, "X")
    await r.interrupt(who)


async def data_status(r: Round, who: str) -> None:
    await r.write(who, "X")
    await r.set_status(who)


async def data_tell(r: Round, who: str) -> None:
    """Peer to peer below the port: the data has entered the port when the other function is told."""
    await r.write(who, "X")
    await r.sent("X")
    r.tell()


async def data(r: Round, who: str) -> None:
    await r.write(who, "X")


async def flag(r: Round, who: str) -> None:
    await r.write(who, "Y")


async def flag_seen_data(r: Round, who: str) -> None:
    await r.poll(who, "Y")
    await r.read(who, "X")


async def flag_seen_data_ido(r: Round, who: str) -> None:
    await r.poll(who, "Y", ido=True)
    await r.read(who, "X", ido=True)


async def flag_seen_data_ro(r: Round, who: str) -> None:
    await r.poll(who, "Y", ro=True)
    await r.read(who, "X", ro=True)


async def data_seen_flag(r: Round, who: str) -> None:
    await r.poll(who, "X")
    await r.read(who, "Y")


async def data_seen_write_flag(r: Round, who: str) -> None:
    await r.poll(who, "X")
    await r.write(who, "Y")


async def flag_seen_write_data(r: Round, who: str) -> None:
    await r.poll(who, "Y")
    await r.write(who, "X", 2)


async def flag_seen_pass_on(r: Round, who: str) -> None:
    await r.poll(who, "Y")
    await r.write(who, "Z")


async def passed_on_data(r: Round, who: str) -> None:
    await r.poll(who, "Z")
    await r.read(who, "X")


async def flag_seen_tell(r: Round, who: str) -> None:
    await r.poll(who, "Y")
    r.tell()


async def status_seen_tell(r: Round, who: str) -> None:
    await r.poll_status(who)
    r.tell()


async def told_data(r: Round, who: str) -> None:
    await r.told()
    await r.read(who, "X")


async def told_flag(r: Round, who: str) -> None:
    await r.told()
    await r.write(who, "Y")


async def told_flag_ido(r: Round, who: str) -> None:
    await r.told()
    await r.write(who, "Y", ido=True)


async def interrupted_data(r: Round, who: str) -> None:
    await r.take_interrupt(who)
    await r.read(who, "X")


async def status_seen_data(r: Round, who: str) -> None:
    await r.poll_status(who)
    await r.read(who, "X")


async def configure_data(r: Round, who: str) -> None:
    await r.told()
    await r.configure(who)
    await r.read(who, "X")


async def descriptor_ring(r: Round, who: str) -> None:
    await r.write(who, "X")
    await r.ring(who)


async def rung_descriptor(r: Round, who: str) -> None:
    await r.rung()
    await r.read(who, "X")


async def rung_descriptor_ido(r: Round, who: str) -> None:
    await r.rung()
    await r.read(who, "X", ido=True)


async def ring_flag(r: Round, who: str) -> None:
    await r.ring(who)
    await r.write(who, "Y")


async def flag_seen_rung(r: Round, who: str) -> None:
    await r.poll(who, "Y")
    r.look_rung(who)


async def data_look(r: Round, who: str) -> None:
    await r.write(who, "X")
    await r.read(who, "Y")


async def flag_look(r: Round, who: str) -> None:
    await r.write(who, "Y")
    await r.read(who, "X")


async def flag_again_look(r: Round, who: str) -> None:
    await r.write(who, "Y", 2)
    await r.read(who, "X")


async def look_flag(r: Round, who: str) -> None:
    """Read X, then write Y; without the rule the write does not wait for the answer."""
    if r.machine.behaviour.answered:
        await r.read(who, "X")
        await r.write(who, "Y")
    else:
        await r.beside(r.read(who, "X"), r.write(who, "Y"))


async def look_write_data(r: Round, who: str) -> None:
    if await r.read(who, "Y"):
        await r.write(who, "X")
    else:
        await r.poll(who, "Y")
        await r.write(who, "X")


async def data_flush_tell(r: Round, who: str) -> None:
    await r.write(who, "X")
    await r.read(who, "Y")
    r.tell()


async def data_atomic_flush_tell(r: Round, who: str) -> None:
    await r.write(who, "X")
    await r.swap(who, "Y")
    r.tell()


# Where a case fails by the table.

def far_flag(placement: str, cpu: str) -> bool:
    """X is at the CPU, Y at the other host."""
    return placement == ("AB" if cpu == "a" else "BA")


def far_reader(placement: str, cpu: str) -> bool:
    """``c`` stands where Y is, and X at the other CPU."""
    return placement == ("BA" if cpu == "a" else "AB")


def other_holds_data(placement: str, cpu: str) -> bool:
    """X is at the other CPU."""
    return placement == ("B" if cpu == "a" else "A")


def both_near(placement: str, cpu: str) -> bool:
    """X and Y are at the CPU."""
    return placement == ("AA" if cpu == "a" else "BB")


def _old(reader: str) -> Callable[[Seen], bool]:
    """The reader saw the flag, which ends its poll, and then old data."""
    return lambda seen: seen[f"{reader}X"] == 0


CASES = {case.name: case for case in (
    Case("flag", "CPU polls Y, locally or through the interposer, reads X; completions of hosts carry IDO at random",
         ("O1", "O3", "O4", "O5", "H04", "H62"), {"D": data_flag, "c": flag_seen_data}, _old("c")),
    Case("relaxed_data", "data RO, flag strong", ("O1", "O5"), {"D": relaxed_data_flag, "c": flag_seen_data}, _old("c")),
    Case("atomic_flag", "AtomicOp as flag (RO = 0)", ("O1", "H61"), {"D": data_atomic_flag, "c": flag_seen_data}, _old("c")),
    Case("interrupt", "MSI instead of flag, X at either host", ("O1", "H17"), {"D": data_interrupt, "c": interrupted_data}, _old("c"),
         "X", active=True),
    Case("status", "flag = MMIO read of the device", ("O1", "H18"), {"D": data_status, "c": status_seen_data}, _old("c"), "X"),
    Case("configuration", "completion of a configuration write, kept as strict as that of an MMIO read", ("O1", "H24e"),
         {"D": data_tell, "c": configure_data}, _old("c"), "X", active=True),
    Case("peer_flag", "D2 behind the same port, flag in memory", ("O1", "O3", "O5"), {"D": data_flag, "E": flag_seen_data}, _old("E"), cpus="a",
         repeats=5),
    Case("peer_flag_ido", "the same with IDO on D2's reads: ignored and cleared", ("H62",),
         {"D": data_flag, "E": flag_seen_data_ido}, _old("E"), cpus="a", repeats=5),
    Case("peer_told", "D1 tells D2 peer-to-peer below the port, D2 reads X", ("O1", "H61", "H24d"),
         {"D": data_tell, "E": told_data}, _old("E"), "X", "a"),
    Case("peer_told_flag", "D1 tells D2 peer-to-peer below the port, D2 writes a flag", ("O1", "O3", "O5"),
         {"D": data_tell, "E": told_flag, "c": flag_seen_data}, _old("c")),
    Case("peer_flag_chain", "write, read, causality over D2: D2 sees X and writes Y", ("O1", "O3", "O5"),
         {"D": data, "E": data_seen_write_flag, "c": flag_seen_data}, _old("c")),
    Case("chain", "write, read, causality over a CPU: it sees X and writes Y", ("O3", "O5"),
         {"D": data, "o": data_seen_write_flag, "c": flag_seen_data}, _old("c"), posted=True),
    Case("independent", "independent reads of independent writes (IRIW)", ("O3", "O5"),
         {"D": data, "E": flag, "c": data_seen_flag, "o": flag_seen_data}, lambda seen: seen["cY"] == seen["oX"] == 0),
    Case("load_buffering", "load buffering (LB)", ("O3",), {"D": look_flag, "c": look_write_data}, lambda seen: seen["DX"] == 1),
    Case("store_after_flag", "a CPU writes X after it saw the flag (S)", ("O1", "O3", "O5"),
         {"D": data_flag, "c": flag_seen_write_data}, lambda seen: seen["X"] == 1, posted=True),
    Case("cpu_flag", "CPU to CPU message passing through the interposer", ("O3", "O5"),
         {"c": data_flag, "o": flag_seen_data}, _old("o"), posted=True),
    Case("cpu_flag_device", "CPU to device message passing", ("O1", "O3", "O5"), {"c": data_flag, "D": flag_seen_data}, _old("D"), posted=True),
    Case("cpu_flag_device_ido", "the same with IDO on the device's reads", ("H62",),
         {"c": data_flag, "D": flag_seen_data_ido}, _old("D"), posted=True),
    Case("passed_on", "a CPU sees the flag and tells the other through the interposer", ("O3", "O5"),
         {"D": data_flag, "c": flag_seen_pass_on, "o": passed_on_data}, _old("o"), "XYZ", posted=True),
    Case("doorbell", "doorbell by either CPU, descriptor at either host", ("O1", "O3", "O5"),
         {"c": descriptor_ring, "D": rung_descriptor}, _old("D"), "X", posted=True),
    Case("doorbell_ido", "the same with IDO on the device's read", ("H62",),
         {"c": descriptor_ring, "D": rung_descriptor_ido}, _old("D"), "X", posted=True),
    Case("register_flag", "CPU register write, then flag in memory, device polls the flag", ("O1", "O5"), {"c": ring_flag, "D": flag_seen_rung},
         lambda seen: seen["Dbell"] == 0, "Y", posted=True),
    Case("store_buffering", "store buffering between device and CPU", ("O9", "H63"), {"D": data_look, "c": flag_look},
         lambda seen: seen["DY"] == seen["cX"] == 0),
    Case("overwritten_flag", "R: the CPU overwrites the flag and reads X", ("O9",), {"D": data_flag, "c": flag_again_look},
         lambda seen: seen["Y"] == 2 and seen["cX"] == 0),
    Case("crossed_writes", "2+2W: both write both, in opposite order", ("O9",), {"D": data_flag_again, "c": flag_data_again},
         lambda seen: seen["X"] == 1 and seen["Y"] == 1),
    Case("cpu_store_buffering", "CPU to CPU store buffering across hosts", ("O9",), {"c": data_look, "o": flag_look},
         lambda seen: seen["cY"] == seen["oX"] == 0),
    Case("flush", "device writes X, reads Y, then signals out of band", ("H64", "H20"), {"D": data_flush_tell, "c": told_data}, _old("c")),
    Case("atomic_flush", "the same with an AtomicOp", ("H64",), {"D": data_atomic_flush_tell, "c": told_data}, _old("c")),
    Case("cpu_read_ido", "CPU read carries IDO: cleared", ("H62",), {"D": data_flag, "c": flag_seen_data_ido}, _old("c")),
    Case("cpu_read_ro", "CPU read carries RO: fails", ("H62",), {"D": data_flag, "c": flag_seen_data_ro}, _old("c"), fails=far_flag),
    Case("flag_other_path", "the consumer's knowledge crosses hosts by another path, after a memory flag", ("O10",),
         {"D": data_flag, "c": flag_seen_tell, "o": told_data}, _old("o"), fails=far_reader, fence=True),
    Case("status_other_path", "the same after an MMIO status read", ("O10",),
         {"D": data_status, "c": status_seen_tell, "o": told_data}, _old("o"), "X", fails=other_holds_data, fence=True),
    Case("relaxed_flag", "flag RO: no promise on one host either", (), {"D": data_relaxed_flag, "c": flag_seen_data}, _old("c"),
         fails=both_near, promised=False),
    Case("relaxed_atomic_flag", "AtomicOp as flag, RO = 1: legal reordering on one host too", (),
         {"D": data_relaxed_atomic, "c": flag_seen_data}, _old("c"),
         fails=both_near, promised=False),
    Case("flag_other_id", "flag of another function with IDO: no promise; IDO is cleared, so it holds here", (),
         {"D": data_tell, "E": told_flag_ido, "c": flag_seen_data}, _old("c"), promised=False),
)}

#: Rows of the table that this bench does not run, and why.
NOT_RUN = {
    "INTx and other local messages": "the interposer does not make them anew yet; it forwards messages of the device as posted TLPs",
    "D2 behind another port of the same interposer": "the interposer has one device port",
    "D2 behind another interposer or another link": "there is one interposer; the table says that it fails without a fence (O6)",
    "LOCK or cmpxchg on a remote page": "never mapped (O8): no access of the models makes it",
    "merge mode": "placements are static here; bench hot_page moves pages in it",
    "hold mode; X or Y changes owner between data and flag": "placements are static here; bench producer_consumer runs these while pages move",
    "a CPU's posted store to X in flight when the move starts": "placements are static here; bench aborts",
    "AtomicOp to X forwarded before the hold": "placements are static here; bench hot_page and the planted bug atomics_not_awaited",
}


@dataclass(frozen=True)
class LeftOut:
    """A rule that agents or hosts keep, left out by the bench: its name is the parameter of the scenario. ``shows`` are
    the variants in which the forbidden outcome must be seen then: case, and labels."""

    rule: str
    shows: Mapping[str, tuple[str, ...]]


_FAR_FLAG, _FAR_DATA, _NEAR = ("XY=AB a", "XY=BA b"), ("XY=BA a", "XY=AB b"), ("XY=AA a", "XY=BB b")
LEFT_OUT = {
    "posted_in_order": LeftOut("O5 i: posted writes of one link become visible in order", {
        "flag": _NEAR, "relaxed_data": _NEAR, "interrupt": ("X=A a", "X=B b"), "peer_told_flag": _NEAR, "store_after_flag": _NEAR}),
    "requests_push": LeftOut("O5 ii: a read from the link does not pass its posted writes", {
        "flag": _FAR_DATA, "atomic_flag": _NEAR, "interrupt": ("X=B a", "X=A b"), "configuration": ("X=B a", "X=A b"), "status": ("X=B a", "X=A b"),
        "peer_flag": ("XY=AB -", "XY=BA -"), "peer_told": ("X=A -", "X=B -"), "peer_told_flag": _FAR_DATA, "cpu_flag_device": _FAR_DATA,
        "doorbell": ("X=B a", "X=A b"), "flush": _NEAR, "atomic_flush": _NEAR, "cpu_read_ido": _FAR_DATA,
        "peer_flag_ido": ("XY=AB -", "XY=BA -"), "cpu_flag_device_ido": _FAR_DATA, "doorbell_ido": ("X=B a", "X=A b")}),
    "completions_push": LeftOut("O5 iii: the completion of a CPU's read comes after earlier posted writes", {
        "flag": _FAR_FLAG, "status": ("X=A a", "X=B b"), "configuration": ("X=A a", "X=B b"), "store_after_flag": _FAR_FLAG,
        "peer_told_flag": _FAR_FLAG, "cpu_flag": ("XY=BA a", "XY=AB b")}),
    "down_in_order": LeftOut("O5 iv: completions do not pass what the CPU posted", {
        "register_flag": ("Y=A a", "Y=B b"), "cpu_flag_device": _FAR_DATA, "cpu_flag": _FAR_DATA}),
    "read_back": LeftOut("O9: a store through an aperture is read back", {
        "store_buffering": _FAR_FLAG, "overwritten_flag": _FAR_FLAG, "crossed_writes": _FAR_FLAG, "cpu_store_buffering": _FAR_DATA}),
    # In these the data has been read by somebody, so it is in its one memory: only a copy of it can be old.
    "uncached": LeftOut("O8: CPUs keep no lines of the other host's memory", {
        "chain": ("XY=BA a", "XY=AB b"), "peer_flag_chain": ("XY=BA a", "XY=AB b"), "independent": ("XY=AB a", "XY=BA b"),
        "passed_on": ("XYZ=ABB a", "XYZ=BAA b"), "cpu_flag": ("XY=AB a", "XY=BA b")}),
    "answered": LeftOut("a device waits for the answer to its read before it writes what depends on it", {"load_buffering": _NEAR}),
}


def variants(case: Case) -> Iterator[Variant]:
    """Every placement of the case's locations with each CPU."""
    for placement in product("AB", repeat=len(case.locations)):
        for cpu in case.cpus:
            yield Variant(case, "".join(placement), cpu)


def chosen(names: list[str]) -> list[Case]:
    """The cases of these names, all for none."""
    unknown = [name for name in names if name not in CASES]
    if unknown:
        raise ValueError(f"Case must be one of {', '.join(CASES)}, not {unknown[0]!r}")
    return [CASES[name] for name in names] if names else list(CASES.values())
