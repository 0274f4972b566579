"""Histories of a handful of accesses, told to an event log, and a judge of them that tries every order on one memory.

The judge shares nothing with the checker: no chains, no components, no versions. It takes the definition by its word (correctness 3): is there an
order of all accesses in which each stands after those it may not pass and after those that were over before it, and in which each read
returns what was written last? Two hosts own one line and a half each; a cell is two bytes.
"""

from dataclasses import dataclass, field
from functools import cache

from pagehop_tb.checker.log import EventLog
from pagehop_tb.checker.space import CheckConfig, Range

BASE, OFFSET, PAGE = 0x1000_0000, 1 << 32, 4096
MSI, DOORBELL, STATUS, APERTURE = 0xFEE0_0000, 0xE000_0000, 0xE000_1000, 0x80_0000_0000
DEVICE, ENGINE = 0x0300, (0x0108, 0x0208)
#: The first byte of the cells of a place; the last cell is in the next line.
FIRST = 58
CELLS = 4
STEPS = {"write": 2, "read": 2, "swap": 3, "store": 2, "load": 2, "msi": 2, "doorbell": 2, "register": 2, "message": 2, "fence": 1}


@dataclass
class Op:
    """One access. ``agent`` is a function of the device or 0, 1 for a CPU; ``place`` is the host that owns what it touches, ``cells`` which of them.

    ``seen`` are for a read the operations whose bytes it returns, one a cell, -1 for what was there before.
    """

    kind: str
    agent: str | int
    place: int = 0
    cells: tuple[int, ...] = ()
    ro: bool = False
    ido: bool = False
    seen: tuple[int, ...] = ()
    at: list[int] = field(default_factory=list)

    @property
    def writes(self) -> bool:
        return self.kind in ("write", "swap", "store")

    @property
    def reads(self) -> bool:
        return self.kind in ("read", "load")

    @property
    def device(self) -> bool:
        return self.kind in ("write", "read", "swap", "msi")

    @property
    def remote(self) -> bool:
        return self.kind in ("store", "load") and self.place != self.agent


def value(number: int, cell: int) -> bytes:
    return (number * CELLS + cell + 1).to_bytes(2, "little")


def seen_of(number: int, cell: int) -> bytes:
    """What operation ``number`` left in a cell; zero was there before."""
    return bytes(2) if number < 0 else value(number, cell)


class Teller:
    """Tells ``ops`` to an event log, in the order of ``schedule`` (numbers of operations, one for each of their steps)."""

    def __init__(self, ops: list[Op], schedule: list[int], global_order: bool = False) -> None:
        self.ops, self.log = ops, EventLog()
        apertures = {0: Range(APERTURE, 2 * PAGE, BASE + OFFSET - APERTURE), 1: Range(APERTURE, 2 * PAGE, BASE - APERTURE)}
        self.config = CheckConfig(window=Range(BASE, 2 * PAGE), host_b_offset=OFFSET, owned_by_b=frozenset({1}), engine_ids=frozenset(ENGINE),
                                  interrupts=(Range(MSI, PAGE),), apertures=apertures, global_order=global_order)
        self.performed: dict[tuple[int, int], list[int]] = {}       # place and cell: the operations that wrote it, in their order
        self.olds: dict[int, bytes] = {}                            # what each swap found
        for time, number in enumerate(schedule):
            op = ops[number]
            op.at.append(time)
            getattr(self, f"_{op.kind}")(op, number, time, len(op.at) - 1)

    @staticmethod
    def _range(op: Op) -> tuple[int, int]:
        return op.place * PAGE + FIRST + 2 * op.cells[0], 2 * len(op.cells)

    def _whole(self, op: Op, number: int) -> tuple[int, bytes, int | None]:
        """Address within the guest, data and byte enables of a write in whole dwords."""
        start, length = self._range(op)
        first, end = start & ~3, start + length + 3 & ~3
        data = b"".join(value(number, cell) for cell in op.cells)
        enables = None if (first, end) == (start, start + length) else (1 << length) - 1 << start - first
        return first, bytes(start - first) + data + bytes(end - start - length), enables

    def _done(self, op: Op, number: int) -> None:
        for cell in op.cells:
            self.performed.setdefault((op.place, cell), []).append(number)

    def _host(self, op: Op, place: int) -> int:
        return BASE + place + (OFFSET if op.place else 0)

    def _write(self, op: Op, number: int, time: int, step: int) -> None:
        place, data, enables = self._whole(op, number)
        if step == 0:
            self.log.device_write(time, op.agent, BASE + place, data, enables, op.ro, op.ido, number)
        else:
            self.log.performed_write(time, op.place, self._host(op, place), data, enables, DEVICE, "link")
            self._done(op, number)

    def _read(self, op: Op, number: int, time: int, step: int) -> None:
        start, length = self._range(op)
        if step == 0:
            self.log.device_read(time, op.agent, BASE + start, length, number, op.ido)
        else:
            self.log.device_read_done(time, number, b"".join(seen_of(s, c) for s, c in zip(op.seen, op.cells, strict=True)), 0)

    def _swap(self, op: Op, number: int, time: int, step: int) -> None:
        start, _ = self._range(op)
        operand = b"".join(value(number, cell) for cell in op.cells)
        if step == 0:
            self.log.device_atomic(time, op.agent, BASE + start, "swap", operand, number, op.ro, op.ido)
        elif step == 1:
            self.olds[number] = b"".join(seen_of(self.performed.get((op.place, cell), [-1])[-1], cell) for cell in op.cells)
            self.log.performed_atomic(time, op.place, self._host(op, start), "swap", self.olds[number], operand, DEVICE, 1)
            self._done(op, number)
        else:
            self.log.device_atomic_done(time, number, self.olds[number], 0)

    def _cpu(self, op: Op, start: int) -> int:
        return APERTURE + start if op.remote else self._host(op, start)

    def _store(self, op: Op, number: int, time: int, step: int) -> None:
        start, _ = self._range(op)
        place, data, enables = self._whole(op, number)
        if step == 0:
            self.log.cpu_store(time, op.agent, self._cpu(op, start), b"".join(value(number, cell) for cell in op.cells))
        else:
            source = ("link", ENGINE[op.place]) if op.remote else ("cpu", 0)
            self.log.performed_write(time, op.place, self._host(op, place), data, enables, source[1], source[0])
            self._done(op, number)

    def _load(self, op: Op, number: int, time: int, step: int) -> None:
        start, _ = self._range(op)
        if step == 1:
            data = b"".join(seen_of(s, c) for s, c in zip(op.seen, op.cells, strict=True))
            if not op.remote:
                op.at[0] = time     # a local load takes its bytes when it returns
            self.log.cpu_load(time, op.agent, self._cpu(op, start), data, op.at[0])

    def _msi(self, op: Op, number: int, time: int, step: int) -> None:
        data = number.to_bytes(4, "little")
        if step == 0:
            self.log.device_write(time, op.agent, MSI, data, None, op.ro, op.ido, number)
        else:
            self.log.msi(time, op.place, MSI, data)

    def _doorbell(self, op: Op, number: int, time: int, step: int) -> None:
        data = number.to_bytes(4, "little")
        if step == 0:
            self.log.mmio_write(time, op.agent, DOORBELL, data)
        else:
            self.log.device_mmio_write(time, "nvme", DOORBELL, data, None)

    def _register(self, op: Op, number: int, time: int, step: int) -> None:
        data = number.to_bytes(4, "little")
        if step == 0:
            self.log.device_mmio_read(time, op.agent, STATUS, data, op.ro, op.ido)
        else:
            self.log.mmio_read_done(time, op.place, STATUS, data, 0, time)

    def _message(self, op: Op, number: int, time: int, step: int) -> None:
        if step == 0:
            self.log.message(time, op.agent, number)
        else:
            self.log.message_seen(time, 1 - op.agent, number)

    def _fence(self, op: Op, number: int, time: int, step: int) -> None:
        self.log.cpu_fence(time, op.agent)


@dataclass(frozen=True)
class Node:
    """A part of an operation that has one place in an order. ``invoked`` and ``answered`` are times, or None."""

    op: int
    cells: tuple[int, ...]
    agent: str | int
    invoked: int | None
    answered: int | None


def nodes_of(ops: list[Op]) -> list[Node]:
    """The nodes: a line of a write, a line or a cell of a read, both ends of a channel."""
    result = []
    for number, op in enumerate(ops):
        start, end = op.at[0], op.at[-1]
        if op.kind == "swap":
            result.append(Node(number, op.cells, op.agent, start, end))
        elif op.reads:
            one_line = len({cell == CELLS - 1 for cell in op.cells}) == 1
            result += [Node(number, cells, op.agent, start, end) for cells in ([op.cells] if one_line else [(cell,) for cell in op.cells])]
        elif op.writes:
            lines = [tuple(c for c in op.cells if (c == CELLS - 1) == last) for last in (False, True)]
            result += [Node(number, cells, op.agent, start, None) for cells in lines if cells]
        elif op.kind == "fence":
            result.append(Node(number, (), op.agent, start, start))
        else:
            arrived = {"msi": op.place, "doorbell": "nvme", "register": op.place, "message": 1 - op.agent if op.kind == "message" else 0}[op.kind]
            result += [Node(number, (), op.agent, start, None), Node(number, (), arrived, None, end)]
    return result


def must_follow(ops: list[Op], x: Node, y: Node, global_order: bool) -> bool:
    """Whether ``y`` comes after ``x`` in every order, whatever memory contains."""
    a, b = ops[x.op], ops[y.op]
    if x.op == y.op:
        ends = not x.cells and a.kind != "fence" and x.answered is None and y.answered is not None
        return ends or (a.kind == "write" and not a.ro and x.cells < y.cells)
    if x.answered is not None and y.invoked is not None and x.answered < y.invoked and (global_order or x.agent == y.agent):
        return True
    if x.invoked is None or y.invoked is None or x.invoked > y.invoked:
        return False
    if a.kind in ("write", "msi") and (b.device or b.kind == "register"):
        may_pass = (b.ro and b.kind != "read") or (b.ido and a.agent != b.agent)
        return not may_pass
    if isinstance(a.agent, int) and a.agent == b.agent and a.kind in ("store", "doorbell", "message"):
        return b.kind in ("store", "doorbell", "message", "fence") or (b.kind == "load" and a.kind == "store" and a.remote and b.remote)
    return False


def is_legal(teller: Teller) -> bool:
    """Whether some order on one memory explains the history. Tries them all, except those that begin like one that already failed."""
    ops, nodes = teller.ops, nodes_of(teller.ops)
    before = [[j for j, x in enumerate(nodes) if j != i and must_follow(ops, x, y, teller.config.global_order)] for i, y in enumerate(nodes)]
    rank = {(place, cell, number): i for (place, cell), order in teller.performed.items() for i, number in enumerate(order)}
    if any(_forgets(ops, op, rank) for op in ops if op.kind == "load"):
        return False

    def fits(i: int, placed: int) -> bool:
        if any(not placed >> j & 1 for j in before[i]):
            return False
        op = ops[nodes[i].op]
        if not (op.reads or op.writes):
            return True
        for cell in nodes[i].cells:
            written = [rank[op.place, cell, n.op] for j, n in enumerate(nodes)
                       if placed >> j & 1 and ops[n.op].writes and ops[n.op].place == op.place and cell in n.cells]
            last = max(written, default=-1)
            if op.writes and last != rank[op.place, cell, nodes[i].op] - 1:
                return False
            if op.reads:
                wanted = op.seen[op.cells.index(cell)]
                wanted_rank = rank[op.place, cell, wanted] if wanted >= 0 else -1
                own = wanted >= 0 and op.kind == "load" and ops[wanted].agent == op.agent and ops[wanted].at[0] < op.at[0]
                if last > wanted_rank or (last < wanted_rank and not own):
                    return False
        return True

    @cache
    def can_end(placed: int) -> bool:
        if placed == (1 << len(nodes)) - 1:
            return True
        return any(can_end(placed | 1 << i) for i in range(len(nodes)) if not placed >> i & 1 and fits(i, placed))

    return can_end(0)


def _forgets(ops: list[Op], load: Op, rank: dict[tuple[int, int, int], int]) -> bool:
    """Whether a CPU does not see its own earlier store."""
    for number, store in enumerate(ops):
        if store.kind == "store" and (store.agent, store.place) == (load.agent, load.place) and store.at[0] < load.at[0]:
            for cell, seen in zip(load.cells, load.seen, strict=True):
                if cell in store.cells and (rank[load.place, cell, seen] if seen >= 0 else -1) < rank[load.place, cell, number]:
                    return True
    return False
