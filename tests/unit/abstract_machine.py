"""A machine that moves pages in the abstract: no TLPs, no cycles, random steps. It tries the checker with many histories, legal and not.

A host performs what is in its posted queue in order; a read or atomic stands in the same queue, so it pushes what is before it. Each planted bug
leaves out one step that the real hardware must not leave out.
"""

from collections import deque
from random import Random

from pagehop_tb.checker.log import EventLog
from pagehop_tb.checker.space import CheckConfig, Range

BASE, OFFSET, PAGE, LINE, CHUNK = 0x1000_0000, 1 << 32, 4096, 64, 512
ENGINE, DEVICE = (0x0108, 0x0208), 0x0300
PAGES = 3
PLACES = [page * PAGE + line * LINE for page in range(PAGES) for line in range(4)]

BUGS = {
    "source_not_flushed": "H01", "copy_not_flushed": "H03", "held_dropped_on_abort": "H09", "held_overtaken": "H23", "read_passes_held": "H16",
    "read_not_flushing_other_host": "H64", "atomic_not_awaited": "H58", "wrong_owner": "I1", "atomic_replayed": "H10", "error_becomes_data": "H14",
    "reads_from_old_owner": "I4", "done_too_early": "H12, H60",
}


class Machine:
    """Runs ``steps`` random steps with the planted ``bug`` (or none), then lets everything end. The history is in ``log``."""

    def __init__(self, seed: int, bug: str = "", steps: int = 4000) -> None:
        self.random, self.bug, self.log = Random(seed), bug, EventLog()
        self.config = CheckConfig(window=Range(BASE, PAGES * PAGE), host_b_offset=OFFSET, engine_ids=frozenset(ENGINE))
        self.cycle = self.keys = self.value = 0
        self.memory = ({page: bytearray(PAGE) for page in range(PAGES)}, {page: bytearray(PAGE) for page in range(PAGES)})
        self.owners = [0] * PAGES
        self.queues: tuple[deque, deque] = (deque(), deque())
        self.unordered: list[tuple] = []            # atomics that may be passed by reads (H58)
        self.held: deque[tuple] = deque()
        self.answers: list[tuple] = []              # key, data, kind, writes that must be visible first
        self.sent = [0, 0]
        self.done = [0, 0]
        self.move: dict | None = None
        self.written: set[int] = set()
        for _ in range(steps):
            self._step()
        while any(self.queues) or self.unordered or self.held or self.answers or self.move:
            self._step(new=False)

    def _tick(self) -> int:
        self.cycle += 1
        return self.cycle

    def _address(self, host: int, place: int) -> int:
        return BASE + place + (OFFSET if host else 0)

    def _step(self, new: bool = True) -> None:
        actions = [self._perform] * 4 + [self._answer] * 2 + [self._move_step] * 2
        if new:
            actions += [self._write] * 2 + [self._read, self._atomic, self._start_move]
        self.random.choice(actions)()

    # The device

    def _dword(self) -> bytes:
        self.value += 1
        return (0x1000_0000 + self.value).to_bytes(4, "little")

    def _write(self) -> None:
        place, data, ro = self.random.choice(PLACES), self._dword() + self._dword(), self.random.random() < 0.2
        self.keys += 1
        self.log.device_write(self._tick(), "nvme", BASE + place, data, None, ro, False, self.keys)
        self._accept(("write", place, data, self.keys))

    def _read(self) -> None:
        place = self.random.choice(PLACES)
        self.keys += 1
        self.log.device_read(self._tick(), self.random.choice(("nvme", "nic")), BASE + place, 8, self.keys)
        self._accept(("read", place, b"", self.keys))

    def _atomic(self) -> None:
        place = self.random.choice(PLACES) + 32
        self.keys += 1
        operand = (1).to_bytes(4, "little")
        self.log.device_atomic(self._tick(), "nvme", BASE + place, "fetch_add", operand, self.keys)
        self._accept(("atomic", place, operand, self.keys))

    # The way to a host

    def _accept(self, item: tuple) -> None:
        page = item[1] // PAGE
        gated = self.move is not None and self.move["gate"] and self.move["page"] == page
        if gated or (self.held and not (self.bug == "read_passes_held" and item[0] == "read")):
            self.held.append(item)
        else:
            self._forward(item)

    def _forward(self, item: tuple) -> None:
        host = self.owners[item[1] // PAGE]
        if self.bug == "wrong_owner" and self.random.random() < 0.02:
            host = 1 - host
        if self.bug == "reads_from_old_owner" and item[0] == "read" and self.random.random() < 0.2:
            host = 1 - host
        if item[0] == "write":
            self.sent[host] += 1
            self.queues[host].append(item)
        elif item[0] == "atomic":
            # Writes before it are pushed: it is performed when the queue has shrunk to what came after.
            self.unordered.append((host, self.sent[host], self.sent[1 - host], item))
        else:
            self.queues[host].append((*item, self.sent[1 - host]))

    def _perform(self) -> None:
        host = self.random.randrange(2)
        ready = [entry for entry in self.unordered if self.done[entry[0]] >= entry[1]]
        if ready and self.random.random() < 0.2:
            return self._perform_atomic(self.random.choice(ready))
        if not self.queues[host]:
            return None
        kind, place, data, key, *rest = self.queues[host].popleft()
        memory, offset = self.memory[host][place // PAGE], place % PAGE
        if kind == "read":
            self.log.performed_read(self._tick(), host, self._address(host, place), 8, DEVICE, 1)
            self.answers.append((key, bytes(memory[offset:offset + 8]), "read", host, rest[0]))
            return None
        memory[offset:offset + len(data)] = data
        self.done[host] += kind == "write"
        self.log.performed_write(self._tick(), host, self._address(host, place), data, None, DEVICE if kind == "write" else ENGINE[host], "link")
        return None

    def _perform_atomic(self, entry: tuple) -> None:
        host, _, other, (_, place, _, key) = entry
        for _ in range(2 if self.bug == "atomic_replayed" and self.random.random() < 0.1 else 1):
            memory, offset = self.memory[host][place // PAGE], place % PAGE
            old = bytes(memory[offset:offset + 4])
            new = (int.from_bytes(old, "little") + 1).to_bytes(4, "little")
            memory[offset:offset + 4] = new
            self.log.performed_atomic(self._tick(), host, self._address(host, place), "fetch_add", old, new, DEVICE, 1)
        self.unordered.remove(entry)
        self.answers.append((key, old, "atomic", host, other))

    def _answer(self) -> None:
        if not self.answers:
            return
        answer = self.random.choice(self.answers)
        key, data, kind, host, other = answer
        if self.done[1 - host] < other and self.bug != "read_not_flushing_other_host":
            return
        self.answers.remove(answer)
        if kind == "atomic":
            self.log.device_atomic_done(self._tick(), key, data, 0)
        else:
            self.log.device_read_done(self._tick(), key, data, 0)

    # The engine

    def _start_move(self) -> None:
        if self.move is None:
            page = self.random.randrange(PAGES)
            self.move = {"page": page, "to": 1 - self.owners[page], "gate": True, "phase": "settle", "line": 0, "mark": list(self.sent)}
            self.log.move_begin(self._tick(), page, self.move["to"])

    def _move_step(self) -> None:
        if self.move is not None:
            getattr(self, f"_{self.move['phase']}")(self.move, self.move["page"], self.move["to"])

    def _settle(self, move: dict, page: int, to: int) -> None:
        flushed = self.done[1 - to] >= move["mark"][1 - to] or self.bug == "source_not_flushed"
        answered = not any(entry[0] == 1 - to and entry[3][1] // PAGE == page for entry in self.unordered) or self.bug == "atomic_not_awaited"
        if flushed and answered:
            move["phase"] = "copy"

    def _copy(self, move: dict, page: int, to: int) -> None:
        if self.random.random() < 0.2:
            self.log.injected(self._tick(), 1 - to, self._address(1 - to, page * PAGE), CHUNK, 1, ENGINE[1 - to])
            if self.bug != "error_becomes_data":
                return self._end(move, page, to, moved=False)
        for _ in range(4):
            place = page * PAGE + move["line"]
            data = bytes(self.memory[1 - to][page][move["line"]:move["line"] + CHUNK])
            self.queues[to].append(("copy", place, data, 0))
            move["line"] += CHUNK
        if move["line"] == PAGE:
            move["phase"] = "flush"
        return None

    def _flush(self, move: dict, page: int, to: int) -> None:
        if any(item[0] == "copy" for item in self.queues[to]) and self.bug != "copy_not_flushed":
            return None
        self.owners[page] = to
        self.log.commit(self._tick(), page, to)
        return self._end(move, page, to, moved=True)

    def _end(self, move: dict, page: int, to: int, moved: bool) -> None:
        move["gate"] = False
        if not moved and self.bug == "held_dropped_on_abort":
            self.held = deque(item for item in self.held if item[0] != "write")
        held = list(self.held)
        self.held.clear()
        if self.bug == "held_overtaken":
            held.reverse()
        for item in held:
            self._forward(item)
        move.update(phase="retire", moved=moved, mark=list(self.sent))

    def _retire(self, move: dict, page: int, to: int) -> None:
        """The end is told when what was held is visible and no read uses the old place. Copies of an aborted move must be gone too."""
        if self.bug != "done_too_early":
            visible = self.done[to] >= move["mark"][to]
            old_reads = any(item[0] == "read" and item[1] // PAGE == page for item in self.queues[1 - to])
            copies = any(item[0] == "copy" for queue in self.queues for item in queue) and self.bug != "copy_not_flushed"
            if copies or (move["moved"] and (old_reads or not visible)):
                return
        self.log.move_end(self._tick(), page, to, move["moved"], 0 if move["moved"] else 8, 0, 0)
        self.move = None

    def read_memory(self, host: int, address: int, length: int) -> bytes:
        place = address - BASE - (OFFSET if host else 0)
        return bytes(self.memory[host][place // PAGE][place % PAGE:place % PAGE + length])
