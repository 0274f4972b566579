"""One pass over a log: which accepted access was performed where, and what the guest's memory must contain."""

from bisect import bisect_left
from dataclasses import dataclass
from itertools import chain

from pagehop_tb.checker.absorbed import absorbed_writes
from pagehop_tb.checker.invariants.abort import Abort
from pagehop_tb.checker.invariants.equal_copy import EqualCopy
from pagehop_tb.checker.invariants.errors import Errors
from pagehop_tb.checker.invariants.exactly_once import ExactlyOnce
from pagehop_tb.checker.invariants.interrupts import Interrupts
from pagehop_tb.checker.invariants.old_place import OldPlace
from pagehop_tb.checker.invariants.one_owner import OneOwner
from pagehop_tb.checker.invariants.progress import Progress
from pagehop_tb.checker.invariants.unseen_copy import UnseenCopy
from pagehop_tb.checker.log import EventLog, Kind
from pagehop_tb.checker.records import DEVICE_STREAM, Read, Versions, Write, atomic_result
from pagehop_tb.checker.space import HOST_SPACE, INTERRUPT_SPACE, PAGE, CheckConfig, Location
from pagehop_tb.checker.verdict import Verdict

__all__ = ["OpenRead", "Replay"]

#: Stream of the first group of requesters that was declared independent; the following groups follow.
FIRST_GROUP = 3

#: Events by which agents tell each other something beside memory.
CHANNEL = (Kind.MMIO_WRITE, Kind.MMIO_READ_DONE, Kind.DEVICE_MMIO_WRITE, Kind.DEVICE_MMIO_READ, Kind.CPU_FENCE, Kind.MESSAGE, Kind.MESSAGE_SEEN)


@dataclass(slots=True, frozen=True)
class OpenRead:
    """A device's read that is not answered yet. ``issued`` is a position in the log."""

    issued: int
    agent: str
    location: Location
    length: int
    ido: bool


class Replay:
    """Walk through a log once, match what was accepted with what was performed, and keep the reference image of the guest.

    The reference image takes the writes in the order in which they became visible at the owner, nothing of the copies: so an image that differs at
    the end, or at a commit, tells of a copy that went wrong. What is wrong in it all is said by the invariants, which are told what happens.
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
        self.committed_at: dict[int, int] = {}          # page: event of its last commit
        self.interrupts: list[tuple[int, int, int]] = []  # event, host, index of the write
        self.channel: list[int] = []                    # events by which agents tell each other something beside memory
        self.links: list[int] = []                      # events of TLPs on links
        self.absorbing: dict[int, list[list[int]]] = {} # page: begin and end of the moves in which devices go on writing to it
        self.blamed: set[int] = set()                   # events of accesses that some check has called wrong
        self.open_reads: dict[int, OpenRead] = {}       # by key
        self.open_atomics: dict[int, int] = {}          # key: index of the write
        self.unperformed: dict[int, set[int]] = {}      # page: posted writes of the device that are not visible yet
        self._pending: dict[tuple, list[int]] = {}
        self._finished: set[tuple] = set()
        self._stores: dict[tuple, list[int]] = {}
        self._atomics: dict[Location, list[int]] = {}
        self._atomic_olds: dict[tuple, list[tuple[bytes, int]]] = {}  # what memory gave, and to which write
        self._atomic_versions: dict[int, int] = {}      # write: its entry of the versions
        self._cycles: list[int] = []
        self._absorbed = absorbed_writes(log, config, self.owners)
        self._old_places: set[int] = set()              # writes absorbed at a commit, which their old place has not seen: events
        self._add_invariants()

    def _add_invariants(self) -> None:
        self.one_owner, self.equal_copy, self.exactly_once = OneOwner(self), EqualCopy(self), ExactlyOnce(self)
        self.unseen_copy, self.progress, self.abort, self.errors = UnseenCopy(self), Progress(self), Abort(self), Errors(self)
        self.interrupt_rules, self.old_place = Interrupts(self), OldPlace(self)

    @property
    def streams(self) -> int:
        """Streams of writes, each in order: the device port, the CPUs of both hosts, and the groups of requesters beside the first."""
        return FIRST_GROUP + max(self.config.groups.values(), default=0)

    @staticmethod
    def device_stream(group: int) -> int:
        """Stream of the devices of a group."""
        return FIRST_GROUP - 1 + group if group else DEVICE_STREAM

    def stream_of(self, write: Write) -> int:
        """Stream in which the write keeps its order."""
        return write.stream if write.stream != DEVICE_STREAM else self.device_stream(self.config.group_of(write.agent))

    def run(self) -> None:
        """Walk through the log, then look at what never ended."""
        handlers = {
            Kind.DEVICE_WRITE: self._device_write, Kind.DEVICE_READ: self._device_read, Kind.DEVICE_READ_DONE: self._device_read_done,
            Kind.DEVICE_ATOMIC: self._device_atomic, Kind.DEVICE_ATOMIC_DONE: self._device_atomic_done,
            Kind.PERFORMED_WRITE: self._performed_write, Kind.PERFORMED_READ: self._performed_read, Kind.PERFORMED_ATOMIC: self._performed_atomic,
            Kind.MSI: self._msi, Kind.CPU_LOAD: self._cpu_load, Kind.CPU_STORE: self._cpu_store, Kind.PRESET: self._preset,
            Kind.COMMIT: self._commit, Kind.HOLDING: self._holding, Kind.INJECTED: self._inject, Kind.MOVE_BEGIN: self._move_begin,
            Kind.MOVE_END: self._move_end, Kind.VCPU: self._vcpu, Kind.LINK: self._link, **dict.fromkeys(CHANNEL, self._tell),
        }
        table = [handlers.get(kind) for kind in Kind]
        for event, entry in enumerate(self.log.events):
            handler = table[entry[0]]
            if handler is not None:
                handler(event, *entry[1:])
        self.progress.at_end()
        self.exactly_once.at_end(chain.from_iterable((*self._pending.values(), *self._stores.values())))

    # What devices do

    def _device_write(self, event: int, cycle: int, agent: str, address: int, data: bytes, byte_enables: int | None,
                      ro: bool, ido: bool, key: int) -> None:
        location = self.config.of_device(address)
        self._pending.setdefault(self._key(location, data, byte_enables), []).append(len(self.writes))
        self.unperformed.setdefault(location // PAGE, set()).add(len(self.writes))
        self.writes.append(Write(event, DEVICE_STREAM, agent, location, not (ro or ido), length=len(data), ro=ro, ido=ido))

    def _device_read(self, event: int, cycle: int, agent: str, address: int, length: int, key: int, ido: bool = False) -> None:
        self.open_reads[key] = OpenRead(event, agent, self.config.of_device(address), length, ido)

    def _device_read_done(self, event: int, cycle: int, key: int, data: bytes, status: int) -> None:
        opened = self.open_reads.pop(key, None)
        if opened is None:
            self.progress.answered_again(cycle, "a read", key)
            return
        agent, location, length, issued = opened.agent, opened.location, opened.length, opened.issued
        if self.errors.answered(cycle, "read", agent, location, length, issued, status):
            self.reads.append(Read(agent, location, length, issued, event, data, issued, pushes=not opened.ido))
            if len(data) != length:
                who = f"cycle {cycle}: the read of {agent} at {self.config.name(location)}"
                self.verdict.add("invented", f"{who} asked for {length} bytes and got {len(data)}")

    def _device_atomic(self, event: int, cycle: int, agent: str, address: int, op: str, operand: bytes, key: int,
                       ro: bool = False, ido: bool = False) -> None:
        location = self.config.of_device(address)
        self._atomics.setdefault(location, []).append(len(self.writes))
        self.open_atomics[key] = len(self.writes)
        length = len(operand) // 2 if op == "cas" else len(operand)
        self.writes.append(Write(event, DEVICE_STREAM, agent, location, not (ro or ido), atomic=(op, operand), length=length, ro=ro, ido=ido))

    def _device_atomic_done(self, event: int, cycle: int, key: int, old: bytes, status: int) -> None:
        index = self.open_atomics.pop(key, None)
        if index is None:
            self.progress.answered_again(cycle, "an atomic", key)
            return
        write = self.writes[index]
        assert write.atomic is not None
        if not self.errors.answered(cycle, write.atomic[0], write.agent, write.location, len(old) or 8, write.event, status):
            if index in self._atomics.get(write.location, ()):
                self._atomics[write.location].remove(index)
            return
        olds = self._atomic_olds.get((write.location, *write.atomic), [])
        if self._answered_with(index, old, olds):
            write.answered = event
            self.reads.append(Read(write.agent, write.location, 0, write.event, event, b"", write.event, pushes=write.strong, atomic=True))
        else:
            self.exactly_once.wrong_answer(cycle, write, old, performed=bool(olds))

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

    def is_owner(self, location: Location, host: int) -> bool:
        """Whether ``location`` belongs to ``host`` now."""
        if location < HOST_SPACE[0]:
            return self.owners.get(location // PAGE, 0) == host
        return location >= INTERRUPT_SPACE or (location >> 60) - 1 == host

    def _performed_write(self, event: int, cycle: int, host: int, address: int, data: bytes, byte_enables: int | None, rid: int, source: str) -> None:
        key = location, data, byte_enables = self._key(self.config.of_host(host, address), data, byte_enables)
        if event in self._old_places:
            self._patch(self.shadow, location, data, byte_enables)
            return
        waiting = self._pending.get(key)
        if not waiting:
            stored = (host, *self._stored(location, data, byte_enables))
            if self._stores.get(stored):
                self._perform(self._stores[stored].pop(0), event, host, stored[1], stored[2], None)
                return
        if source != "link" or rid in self.config.engine_ids:
            if not self.is_owner(location, host):
                self._patch(self.shadow, location, data, byte_enables)
            elif source == "link" and location < HOST_SPACE[0] and not self.equal_copy.lands(location, data):
                self.equal_copy.late(cycle, location, host)
            return
        if waiting:
            index = waiting.pop(0)
            self._finished.add(key)
        else:
            index = -1
            self.exactly_once.unasked_write(cycle, rid, location, again=key in self._finished)
        self.one_owner.performed(cycle, "write", rid, location, host)
        self._perform(index, event, host, location, data, byte_enables)

    @staticmethod
    def _key(location: Location, data: bytes, byte_enables: int | None) -> tuple[Location, bytes, int | None]:
        """What a write is matched by. All bytes enabled is ``None``, however it was said."""
        return location, data, None if byte_enables == (1 << len(data)) - 1 else byte_enables

    @staticmethod
    def _stored(location: Location, data: bytes, byte_enables: int | None) -> tuple[Location, bytes]:
        """What a CPU stored, when it came as whole dwords with byte enables."""
        if not byte_enables:
            return location, data
        first, last = (byte_enables & -byte_enables).bit_length() - 1, byte_enables.bit_length()
        return location + first, data[first:last]

    def _perform(self, index: int, event: int, host: int, location: Location, data: bytes, byte_enables: int | None) -> None:
        """Write ``index`` (-1: of nobody) is visible at ``host``: note when, and take it into the image when that is the owner."""
        if index >= 0:
            self.writes[index].performed, self.writes[index].host = event, host
            self.unperformed.get(location // PAGE, set()).discard(index)
        if not self.is_owner(location, host):
            self._patch(self.shadow, location, data, byte_enables)
        elif byte_enables != 0:
            if location // PAGE in self.equal_copy.landing:
                self.equal_copy.ended(self.cycle_of(event), location // PAGE)
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
        if not length or self.is_owner(location, host) or rid in self.config.engine_ids:
            return
        if not self.old_place.served(cycle, rid, location, host):
            self.unseen_copy.served(cycle, rid, location, host)

    def _performed_atomic(self, event: int, cycle: int, host: int, address: int, op: str, old: bytes, new: bytes, rid: int, tag: int) -> None:
        location = self.config.of_host(host, address)
        self.one_owner.performed(cycle, op, rid, location, host)
        pending = self._atomics.get(location, [])
        index = next((i for i in pending if self._does(self.writes[i], op, old, new)), -1)
        if index >= 0:
            pending.remove(index)
            atomic = self.writes[index].atomic
            assert atomic is not None
            self._atomic_olds.setdefault((location, *atomic), []).append((old, index))
            if self.is_owner(location, host):
                self._atomic_versions[index] = len(self.versions.event)
        elif rid in self.config.engine_ids and location >= HOST_SPACE[0]:
            return      # to a word of a dirty bitmap, which is no guest's
        else:
            self.exactly_once.unasked_atomic(cycle, op, rid, location, new, others=bool(pending))
        self._perform(index, event, host, location, new, None)

    @staticmethod
    def _does(write: Write, op: str, old: bytes, new: bytes) -> bool:
        return write.atomic is not None and write.atomic[0] == op and atomic_result(op, old, write.atomic[1]) == new

    def _msi(self, event: int, cycle: int, host: int, address: int, data: bytes) -> None:
        key = (INTERRUPT_SPACE | address, data, None)
        waiting = self._pending.get(key)
        if waiting:
            index = waiting.pop(0)
            self.writes[index].performed, self.writes[index].host = event, host
            self.interrupts.append((event, host, index))
            self._finished.add(key)
            self.interrupt_rules.delivered(cycle, host, address)
        elif address not in self.config.notify:
            self.interrupt_rules.unasked(cycle, host, address, again=key in self._finished)

    def _cpu_store(self, event: int, cycle: int, host: int, address: int, data: bytes) -> None:
        target, location = self.config.of_cpu(host, address)
        remote = self.config.is_remote(host, address)
        self._stores.setdefault((target, location, data), []).append(len(self.writes))
        self.writes.append(Write(event, 1 + host, f"CPU {'AB'[host]}", location, True, length=len(data), remote=remote))

    def _cpu_load(self, event: int, cycle: int, host: int, address: int, data: bytes, issued: int) -> None:
        target, location = self.config.of_cpu(host, address)
        remote = self.config.is_remote(host, address)
        if self.is_owner(location, target):
            start = self.position_before(issued) if remote else event
            knows = min(event - 1, self.position_before(issued + 1))
            self.reads.append(Read(f"CPU {'AB'[host]}", location, len(data), start, event, data, knows, remote=remote))

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
            if self.is_owner(location, host):
                self._patch(self.initial, location, part, None)
                self._patch(self.image, location, part, None)
            else:
                self._patch(self.shadow, location, part, None)
            done += len(part)

    def _commit(self, event: int, cycle: int, page: int, host: int) -> None:
        if not self.one_owner.committed(cycle, page, host):
            return
        self.errors.committed(cycle, page)
        for absorbed in self._absorbed.get(event, ()):
            self._absorb(event, absorbed)
        self.equal_copy.committed(cycle, page, host, absorbs=self._absorbs(page))
        self.shadow[page] = bytearray(self.image.get(page, bytes(PAGE)))
        self.owners[page] = host
        self.commits.append((event, page, host))
        self.committed_at[page] = event

    def _absorbs(self, page: int) -> bool:
        """Devices go on writing to ``page`` in the move that runs."""
        moves = self.absorbing.get(page)
        return moves is not None and len(moves[-1]) == 1

    def _absorb(self, commit: int, event: int) -> None:
        """What the old place shows at ``event``, after the commit, was taken into the copy: its place among the versions is the commit."""
        _, _, host, address, data, byte_enables, _, _ = self.log.events[event]
        key = location, data, byte_enables = self._key(self.config.of_host(host, address), data, byte_enables)
        waiting = self._pending.get(key)
        if not waiting or self.writes[waiting[0]].event > commit:
            return
        index = waiting.pop(0)
        self._finished.add(key)
        self._old_places.add(event)
        self._perform(index, commit, host, location, data, byte_enables)
        self.writes[index].performed = event

    def _holding(self, event: int, cycle: int, level: int) -> None:
        self.progress.holding(cycle, level)

    def _inject(self, event: int, cycle: int, host: int, address: int, length: int, status: int, rid: int) -> None:
        self.errors.injected(event, self.config.of_host(host, address), length, status, rid)

    def _move_begin(self, event: int, cycle: int, page: int, host: int, absorbs: bool = False) -> None:
        if absorbs:
            self.absorbing.setdefault(page, []).append([event])
        self.errors.begun(page)
        self.old_place.begun(page)
        self.abort.begun(event, page)

    def _move_end(self, event: int, cycle: int, page: int, host: int, moved: bool, error: int, hold_cycles: int, total_cycles: int) -> None:
        if self._absorbs(page):
            self.absorbing[page][-1].append(event)
        self.abort.ended(cycle, page, host, moved)
        self.old_place.ended(cycle, page, moved)
        self.equal_copy.ended(cycle, page)

    def _vcpu(self, event: int, cycle: int, host: int) -> None:
        self.interrupt_rules.runs_at(host)

    def _tell(self, event: int, *_: object) -> None:
        self.channel.append(event)

    def _link(self, event: int, *_: object) -> None:
        self.links.append(event)

    # For stories

    def cycle_of(self, event: int) -> int:
        """Cycle of the event at this position of the log; 0 before the first."""
        return int(self.log.events[event][1]) if event >= 0 else 0

    def told(self, index: int) -> str:
        """Write ``index`` for a reader."""
        write = self.writes[index]
        kind = "atomic" if write.atomic else "store" if write.stream else "write"
        return f"the {kind} of {write.agent} to {self.config.name(write.location)} in cycle {self.cycle_of(write.event)}"
