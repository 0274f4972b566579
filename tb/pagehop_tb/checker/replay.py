"""One pass over a log: which accepted access was performed where, and what the guest's memory must contain."""

from bisect import bisect_left
from dataclasses import dataclass, field

from pagehop_tb.checker.log import EventLog, Kind
from pagehop_tb.checker.space import HOST_SPACE, INTERRUPT_SPACE, PAGE, CheckConfig, Location, host_name
from pagehop_tb.checker.verdict import Verdict

__all__ = ["DEVICE_STREAM", "Read", "Replay", "Write"]

#: Streams of writes that keep their order: the device port, the CPU of Host A, the CPU of Host B.
DEVICE_STREAM = 0

#: Events by which agents tell each other something beside memory.
CHANNEL = (Kind.MMIO_WRITE, Kind.MMIO_READ_DONE, Kind.DEVICE_MMIO_WRITE, Kind.DEVICE_MMIO_READ, Kind.CPU_FENCE, Kind.MESSAGE, Kind.MESSAGE_SEEN)

SUCCESS = 0
TIMEOUT = 9
NAMES = {1: "UR", 2: "CRS", 4: "CA", 8: "poison", 9: "timeout", 10: "a malformed completion"}


@dataclass(slots=True)
class Write:
    """An accepted posted write, store or atomic: when it was issued and when (and where) it became visible (-1: not yet).

    ``strong`` may not pass anything posted. ``remote`` went through an aperture. ``answered`` is when an atomic's requester had its answer.
    """

    event: int
    stream: int
    agent: str
    location: Location
    strong: bool
    performed: int = -1
    host: int = -1
    atomic: tuple[str, bytes] | None = None
    length: int = 0
    ro: bool = False
    ido: bool = False
    remote: bool = False
    answered: int = -1


@dataclass(slots=True)
class Read:
    """A read that was answered with data: ``issued`` and ``done`` are positions in the log.

    ``knows`` is the position up to which its agent's knowledge counts: ``issued`` for a device, for a CPU the end of the cycle of issue.
    ``remote`` went through an aperture.
    """

    agent: str
    location: Location
    length: int
    issued: int
    done: int
    data: bytes
    knows: int
    ido: bool = False
    remote: bool = False


@dataclass
class Versions:
    """What each performed write left behind, in the order in which they became visible: whole dwords.

    ``partial`` tells for the entries that did not write all bytes of their dwords which they did: bit *i* for byte *i*.
    """

    dword: list[int] = field(default_factory=list)
    count: list[int] = field(default_factory=list)
    event: list[int] = field(default_factory=list)
    writer: list[int] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)
    partial: dict[int, int] = field(default_factory=dict)


def atomic_result(op: str, old: bytes, operand: bytes) -> bytes:
    """What an AtomicOp leaves in memory (PCIe 6.15: operands are little-endian here, as the models configure them)."""
    if op == "fetch_add":
        return ((int.from_bytes(old, "little") + int.from_bytes(operand, "little")) % (1 << 8 * len(old))).to_bytes(len(old), "little")
    if op == "swap":
        return operand
    compare, swap = operand[:len(old)], operand[len(old):]
    return swap if old == compare else old


class Replay:
    """Walk through a log once, match what was accepted with what was performed, and keep the reference image of the guest.

    The reference image takes the writes in the order in which they became visible at the owner, nothing of the copies: so an image that differs at
    the end, or at a commit, tells of a copy that went wrong.
    """

    def __init__(self, log: EventLog, config: CheckConfig, verdict: Verdict) -> None:
        self.log, self.config, self.verdict = log, config, verdict
        self.writes: list[Write] = []
        self.reads: list[Read] = []
        self.versions = Versions()
        self.image: dict[int, bytearray] = {}           # the guest and what else devices and CPUs wrote: by location // PAGE
        self.initial: dict[int, bytearray] = {}         # the same before the run
        self.shadow: dict[int, bytearray] = {}          # pages of the window at the host that does not own them
        self.owners: dict[int, int] = dict.fromkeys(config.owned_by_b, 1)
        self.commits: list[tuple[int, int, int]] = []   # event, page, host
        self.interrupts: list[tuple[int, int, int]] = []  # event, host, index of the write
        self.pages_written: set[int] = set()
        self.channel: list[int] = []                    # events by which agents tell each other something beside memory
        self.blamed: set[int] = set()                   # events of accesses that some check has called wrong
        self._pending: dict[tuple, list[int]] = {}
        self._finished: set[tuple] = set()
        self._stores: dict[tuple, list[int]] = {}
        self._atomics: dict[Location, list[int]] = {}
        self._atomic_olds: dict[tuple, list[tuple[bytes, int]]] = {}  # what memory gave, and to which write
        self._atomic_versions: dict[int, int] = {}                 # write: its entry of the versions
        self._open: dict[int, tuple[int, str, int, int, bool]] = {}   # key: event, agent, address, length, IDO
        self._open_atomics: dict[int, int] = {}                    # key: index of the write
        self._cycles: list[int] = []
        self._injected: list[tuple[int, int, int, int]] = []       # event, location, length, status: not yet seen by a requester
        self._copy_errors: dict[int, str] = {}                     # page: error given to a copy read of it
        self._held_since: int | None = None
        self._unperformed: dict[int, set[int]] = {}                # page: posted writes of the device that are not visible yet
        self._retired: set[int] = set()                            # pages whose last move was reported as done: nothing may use the old place

    def run(self) -> None:
        """Walk through the log, then look at what never ended."""
        handlers = {
            Kind.DEVICE_WRITE: self._device_write, Kind.DEVICE_READ: self._device_read, Kind.DEVICE_READ_DONE: self._device_read_done,
            Kind.DEVICE_ATOMIC: self._device_atomic, Kind.DEVICE_ATOMIC_DONE: self._device_atomic_done,
            Kind.PERFORMED_WRITE: self._performed_write, Kind.PERFORMED_READ: self._performed_read, Kind.PERFORMED_ATOMIC: self._performed_atomic,
            Kind.MSI: self._msi, Kind.CPU_LOAD: self._cpu_load, Kind.CPU_STORE: self._cpu_store, Kind.PRESET: self._preset,
            Kind.COMMIT: self._commit, Kind.HOLDING: self._holding, Kind.INJECTED: self._inject, Kind.MOVE_BEGIN: self._move_begin,
            Kind.MOVE_END: self._move_end, **dict.fromkeys(CHANNEL, self._tell),
        }
        table = [handlers.get(kind) for kind in Kind]
        for event, entry in enumerate(self.log.events):
            handler = table[entry[0]]
            if handler is not None:
                handler(event, *entry[1:])
        self._finish()

    # What devices do

    def _device_write(self, event: int, cycle: int, agent: str, address: int, data: bytes, byte_enables: int | None,
                      ro: bool, ido: bool, key: int) -> None:
        location = self.config.of_device(address)
        if byte_enables == (1 << len(data)) - 1:
            byte_enables = None
        self._pending.setdefault((location, data, byte_enables), []).append(len(self.writes))
        self._unperformed.setdefault(location // PAGE, set()).add(len(self.writes))
        self.writes.append(Write(event, DEVICE_STREAM, agent, location, not (ro or ido), length=len(data), ro=ro, ido=ido))

    def _device_read(self, event: int, cycle: int, agent: str, address: int, length: int, key: int, ido: bool = False) -> None:
        self._open[key] = (event, agent, address, length, ido)

    def _device_read_done(self, event: int, cycle: int, key: int, data: bytes, status: int) -> None:
        opened = self._open.pop(key, None)
        if opened is None:
            self.verdict.add("duplicated", f"cycle {cycle}: a read was answered that was not open (key {key})")
            return
        issued, agent, address, length, ido = opened
        location = self.config.of_device(address)
        who = f"cycle {cycle}: the read of {agent} at {self.config.name(location)}"
        if self._error_expected(location, length, issued, status, who):
            self.reads.append(Read(agent, location, length, issued, event, data, issued, ido))
            if len(data) != length:
                self.verdict.add("invented", f"{who} asked for {length} bytes and got {len(data)}")

    def _error_expected(self, location: Location, length: int, issued: int, status: int, who: str) -> bool:
        """Compare a status with the errors that were injected; True when the access succeeded and should have."""
        hits = [error for error in self._injected
                if error[0] >= issued and error[1] < location + max(length, 1) and location < error[1] + max(error[2], 1)]
        if status == SUCCESS:
            if hits:
                self._injected.remove(hits[0])
            if hits and hits[0][3] != TIMEOUT:      # a late answer is still an answer
                self.verdict.add("masked", f"{who} succeeded although the host answered it with {NAMES.get(hits[0][3], hits[0][3])}")
            return True
        if hits:
            self._injected.remove(hits[0])
        elif status == TIMEOUT:
            self.verdict.add("stuck", f"{who} was never answered")
        else:
            name = "misdirected" if status in (1, 4) else "invented"
            self.verdict.add(name, f"{who} ended with {NAMES.get(status, status)}, which no host gave")
        return False

    def _device_atomic(self, event: int, cycle: int, agent: str, address: int, op: str, operand: bytes, key: int,
                       ro: bool = False, ido: bool = False) -> None:
        location = self.config.of_device(address)
        self._atomics.setdefault(location, []).append(len(self.writes))
        self._open_atomics[key] = len(self.writes)
        length = len(operand) // 2 if op == "cas" else len(operand)
        self.writes.append(Write(event, DEVICE_STREAM, agent, location, not (ro or ido), atomic=(op, operand), length=length, ro=ro, ido=ido))

    def _device_atomic_done(self, event: int, cycle: int, key: int, old: bytes, status: int) -> None:
        index = self._open_atomics.pop(key, None)
        if index is None:
            self.verdict.add("duplicated", f"cycle {cycle}: an atomic was answered that was not open (key {key})")
            return
        write = self.writes[index]
        assert write.atomic is not None
        op, operand = write.atomic
        who = f"cycle {cycle}: the {op} of {write.agent} at {self.config.name(write.location)}"
        if not self._error_expected(write.location, len(old) or 8, write.event, status, who):
            if index in self._atomics.get(write.location, ()):
                self._atomics[write.location].remove(index)
            return
        olds = self._atomic_olds.get((write.location, op, operand), [])
        if self._answered_with(index, old, olds):
            write.answered = event
            self.reads.append(Read(write.agent, write.location, 0, write.event, event, b"", write.event))
        elif olds:
            self.verdict.add("invented", f"{who} brought {old.hex()}, which memory never gave to one like it")
        else:
            self.verdict.add("lost", f"{who} was answered and never performed")

    def _answered_with(self, index: int, old: bytes, olds: list[tuple[bytes, int]]) -> bool:
        """Take what gave ``old`` from ``olds`` for atomic ``index``. Equal atomics are told apart only here, so it may be another's so far."""
        found = [entry for entry in olds if entry[0] == old]
        if not found:
            return False
        taken = (old, index) if (old, index) in found else found[0]
        olds.remove(taken)
        other = taken[1]
        if other != index:
            olds[:] = [(value, other if holder == index else holder) for value, holder in olds]
            self._exchange(index, other)
        return True

    def _exchange(self, one: int, other: int) -> None:
        """Two equal atomics change places in what was performed."""
        first, second = self.writes[one], self.writes[other]
        first.performed, second.performed, first.host, second.host = second.performed, first.performed, second.host, first.host
        entries, writers = self._atomic_versions, self.versions.writer
        at = entries.pop(one, None), entries.pop(other, None)
        for writer, entry in ((other, at[0]), (one, at[1])):
            if entry is not None:
                entries[writer], writers[entry] = entry, writer
        pending = self._atomics.get(first.location, [])
        if one in pending:
            pending[pending.index(one)] = other

    # What hosts do

    def _owner(self, location: Location, host: int) -> int:
        if location < HOST_SPACE[0]:
            return self.owners.get(location // PAGE, 0)
        return host if location >= INTERRUPT_SPACE else (location >> 60) - 1

    def _performed_write(self, event: int, cycle: int, host: int, address: int, data: bytes, byte_enables: int | None, rid: int, source: str) -> None:
        location = self.config.of_host(host, address)
        at_owner = self._owner(location, host) == host
        if byte_enables == (1 << len(data)) - 1:
            byte_enables = None
        key = (location, data, byte_enables)
        if key not in self._pending:
            stored = (host, *self._stored(location, data, byte_enables))
            if self._stores.get(stored):
                self._perform(self._stores[stored].pop(0), event, host, stored[1], stored[2], None, at_owner)
                return
        if source != "link" or rid in self.config.engine_ids:
            if at_owner and source == "link":
                place = f"{self.config.name(location)} at {host_name(host)}"
                self.verdict.add("duplicated", f"cycle {cycle}: the interposer wrote {place}, which owns it (late copy)")
            elif not at_owner:
                self._patch(self.shadow, location, data, byte_enables)
            return
        where = f"cycle {cycle}: a write of requester {rid:#06x} to {self.config.name(location)}"
        waiting = self._pending.get(key)
        if waiting:
            index = waiting.pop(0)
            self._finished.add(key)
        else:
            index = -1
            if key in self._finished:
                self.verdict.add("duplicated", f"{where} was performed once more")
            else:
                self.verdict.add("invented", f"{where} that no device made")
        if not at_owner:
            self.verdict.add("misdirected", f"{where} was performed at {host_name(host)}, which does not own it")
        self._perform(index, event, host, location, data, byte_enables, at_owner)

    @staticmethod
    def _stored(location: Location, data: bytes, byte_enables: int | None) -> tuple[Location, bytes]:
        """What a CPU stored, when it came as whole dwords with byte enables."""
        if not byte_enables:
            return location, data
        first, last = (byte_enables & -byte_enables).bit_length() - 1, byte_enables.bit_length()
        return location + first, data[first:last]

    def _perform(self, index: int, event: int, host: int, location: Location, data: bytes, byte_enables: int | None, at_owner: bool) -> None:
        """Write ``index`` (-1: of nobody) is visible at ``host``: note when, and take it into the image when that is the owner."""
        if index >= 0:
            self.writes[index].performed, self.writes[index].host = event, host
            self._unperformed.get(location // PAGE, set()).discard(index)
        if not at_owner:
            self._patch(self.shadow, location, data, byte_enables)
            return
        if byte_enables != 0:
            self._patch(self.image, location, data, byte_enables)
            self._version(event, index, location, len(data), byte_enables)

    def _patch(self, images: dict[int, bytearray], location: Location, data: bytes, byte_enables: int | None) -> None:
        page, offset = divmod(location, PAGE)
        image = images.get(page)
        if image is None:
            image = images[page] = bytearray(PAGE)
        if byte_enables is None:
            image[offset:offset + len(data)] = data
            return
        for i, byte in enumerate(data):
            if byte_enables >> i & 1:
                image[offset + i] = byte

    def _version(self, event: int, writer: int, location: Location, length: int, byte_enables: int | None) -> None:
        page, offset = divmod(location, PAGE)
        self.pages_written.add(page)
        start, end = offset & ~3, offset + length + 3 & ~3
        versions = self.versions
        if byte_enables is not None or end - start != length:
            versions.partial[len(versions.event)] = ((1 << length) - 1 if byte_enables is None else byte_enables) << (offset - start)
        versions.dword.append(page * (PAGE // 4) + start // 4)
        versions.count.append((end - start) // 4)
        versions.event.append(event)
        versions.writer.append(writer)
        versions.data.append(bytes(self.image[page][start:end]))

    def _performed_read(self, event: int, cycle: int, host: int, address: int, length: int, rid: int, tag: int) -> None:
        location = self.config.of_host(host, address)
        if rid in self.config.engine_ids or not length or self._owner(location, host) == host:
            return
        # Reads accepted before the commit are still answered by the old owner (H12): only a page that this host did not own lately is an error.
        page = location // PAGE
        if page in self._retired:
            story = f"cycle {cycle}: a read of requester {rid:#06x} was served from the old place of {self.config.name(location)}"
            self.verdict.add("misdirected", f"{story} at {host_name(host)} after its move was reported as done")
            return
        since = max((commit[0] for commit in self.commits if commit[1] == page), default=-1)
        if not any(entry[0] < since and self.config.of_device(entry[2]) // PAGE == page for entry in self._open.values()):
            story = f"cycle {cycle}: a read of requester {rid:#06x} was served at {host_name(host)}, which does not own"
            self.verdict.add("misdirected", f"{story} {self.config.name(location)}")

    def _performed_atomic(self, event: int, cycle: int, host: int, address: int, op: str, old: bytes, new: bytes, rid: int, tag: int) -> None:
        location = self.config.of_host(host, address)
        at_owner = self._owner(location, host) == host
        where = f"cycle {cycle}: a {op} of requester {rid:#06x} to {self.config.name(location)}"
        if not at_owner:
            self.verdict.add("misdirected", f"{where} was performed at {host_name(host)}, which does not own it")
        pending = self._atomics.get(location, [])
        match = next((i for i in pending if self._does(self.writes[i], op, old, new)), None)
        if match is None:
            if rid not in self.config.engine_ids:
                self.verdict.add("invented" if pending else "duplicated", f"{where} left {new.hex()} and no open atomic does that")
            index = -1
        else:
            pending.remove(match)
            index = match
            write = self.writes[match]
            assert write.atomic is not None
            self._atomic_olds.setdefault((location, *write.atomic), []).append((old, match))
            if at_owner:
                self._atomic_versions[match] = len(self.versions.event)
        self._perform(index, event, host, location, new, None, at_owner)

    @staticmethod
    def _does(write: Write, op: str, old: bytes, new: bytes) -> bool:
        return write.atomic is not None and write.atomic[0] == op and atomic_result(op, old, write.atomic[1]) == new

    def _msi(self, event: int, cycle: int, host: int, address: int, data: bytes) -> None:
        location = INTERRUPT_SPACE | address
        waiting = self._pending.get((location, data, None))
        if waiting:
            index = waiting.pop(0)
            self.writes[index].performed, self.writes[index].host = event, host
            self.interrupts.append((event, host, index))
            self._finished.add((location, data, None))
        elif address not in self.config.notify:
            name = "duplicated" if (location, data, None) in self._finished else "invented"
            self.verdict.add(name, f"cycle {cycle}: interrupt {address:#x} at {host_name(host)} that no device raised (again)")

    def _cpu_store(self, event: int, cycle: int, host: int, address: int, data: bytes) -> None:
        target, location = self.config.of_cpu(host, address)
        self._stores.setdefault((target, location, data), []).append(len(self.writes))
        self.writes.append(Write(event, 1 + host, f"CPU {'AB'[host]}", location, True, length=len(data), remote=target != host))

    def _cpu_load(self, event: int, cycle: int, host: int, address: int, data: bytes, issued: int) -> None:
        target, location = self.config.of_cpu(host, address)
        if self._owner(location, target) == target:
            start = event if target == host else self.position_before(issued)
            knows = min(event - 1, self.position_before(issued + 1))
            self.reads.append(Read(f"CPU {'AB'[host]}", location, len(data), start, event, data, knows, remote=target != host))

    def position_before(self, cycle: int) -> int:
        """The last position in the log that is certainly before ``cycle``; -1 when there is none."""
        if not self._cycles:
            self._cycles = [entry[1] for entry in self.log.events]
        return bisect_left(self._cycles, cycle) - 1

    # What the bench tells

    def _preset(self, event: int, cycle: int, host: int, address: int, data: bytes) -> None:
        done = 0
        while done < len(data):
            location = self.config.of_host(host, address + done)
            part = data[done:done + PAGE - location % PAGE]
            if self._owner(location, host) == host:
                self._patch(self.initial, location, part, None)
                self._patch(self.image, location, part, None)
            else:
                self._patch(self.shadow, location, part, None)
            done += len(part)

    def _commit(self, event: int, cycle: int, page: int, host: int) -> None:
        if self.owners.get(page, 0) == host:
            self.verdict.add("misdirected", f"cycle {cycle}: page {page} was committed to {host_name(host)}, which owned it already")
            return
        if page in self._copy_errors:
            error = self._copy_errors.pop(page)
            self.verdict.add("masked", f"cycle {cycle}: page {page} was committed although a copy read of it ended with {error}")
        empty = bytearray(PAGE)
        authoritative, copy = self.image.get(page, empty), self.shadow.get(page, empty)
        if authoritative != copy:
            different = [i for i in range(PAGE) if authoritative[i] != copy[i]]
            story = f"cycle {cycle}: at the commit of page {page} to {host_name(host)}"
            self.verdict.add("lost", f"{story} {len(different)} bytes of the copy differ, first {different[0]:#05x}")
        self.shadow[page] = bytearray(authoritative)
        self.owners[page] = host
        self.commits.append((event, page, host))

    def _holding(self, event: int, cycle: int, level: int) -> None:
        if level:
            self._held_since = cycle
        elif self._held_since is not None:
            held, limit = cycle - self._held_since, self.config.hold_limit
            if limit is not None and held > limit + self.config.slack:
                self.verdict.add("stuck", f"cycle {cycle}: a page was held for {held} cycles, limit {limit}")
            self._held_since = None

    def _inject(self, event: int, cycle: int, host: int, address: int, length: int, status: int, rid: int) -> None:
        location = self.config.of_host(host, address)
        if rid in self.config.engine_ids:
            if length and status != TIMEOUT:
                self._copy_errors[location // PAGE] = NAMES.get(status, str(status))
        else:
            self._injected.append((event, location, length, status))

    def _move_begin(self, event: int, cycle: int, page: int, host: int) -> None:
        self._copy_errors.pop(page, None)
        self._retired.discard(page)

    def _move_end(self, event: int, cycle: int, page: int, host: int, moved: bool, error: int, hold_cycles: int, total_cycles: int) -> None:
        """Done means: what was held is visible at the destination (H60), and nothing uses the old place any more (H12)."""
        if not moved:
            return
        self._retired.add(page)
        committed = max((at for at, which, _ in self.commits if which == page), default=-1)
        if committed < 0:
            self.verdict.add("masked", f"cycle {cycle}: the move of page {page} was reported as done and never committed")
        for index in self._unperformed.get(page, ()):
            if self.writes[index].event < committed:
                self.verdict.add("stale", f"cycle {cycle}: the move of page {page} was reported as done before {self.told(index)} was visible")

    def _tell(self, event: int, *_: object) -> None:
        self.channel.append(event)

    # The end

    def _finish(self) -> None:
        for issued, agent, address, length, _ in self._open.values():
            where = self.config.name(self.config.of_device(address))
            self.verdict.add("stuck", f"the read of {length} bytes by {agent} at {where} in cycle {self.cycle_of(issued)} was never answered")
        for index in self._open_atomics.values():
            self.verdict.add("stuck", f"{self.told(index)} was never answered")
        for waiting in (*self._pending.values(), *self._stores.values()):
            for index in waiting:
                self.verdict.add("lost", f"{self.told(index)} was never performed")
        if self._held_since is not None:
            self.verdict.add("stuck", f"a page is held since cycle {self._held_since}")

    def cycle_of(self, event: int) -> int:
        """Cycle of the event at this position of the log; 0 before the first."""
        return int(self.log.events[event][1]) if event >= 0 else 0

    def told(self, index: int) -> str:
        """Write ``index`` for a reader."""
        write = self.writes[index]
        kind = "atomic" if write.atomic else "store" if write.stream else "write"
        return f"the {kind} of {write.agent} to {self.config.name(write.location)} in cycle {self.cycle_of(write.event)}"
