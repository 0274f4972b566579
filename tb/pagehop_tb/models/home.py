"""The home of a coherent port: memory, a directory, caches of CPUs, and one other master, by TileLink's five channels.

One call of :meth:`Home.step` is one cycle, whatever drives the signals. What it shows to the master in a cycle does not depend on what the master
shows in the same cycle. Names and rules are those of the SiFive TileLink Specification 1.8.1; a broken one is a :class:`HomeError`. Stricter than
there: a grant is acknowledged when all of it has come.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from random import Random
from typing import NamedTuple, TypeVar

from pagehop_tb.models.memory import HostMemory

__all__ = [
    "A", "Access", "B", "C", "Cap", "D", "FromMaster", "Grow", "Home", "HomeError", "LINE", "OpA", "OpB", "OpC", "OpD", "Shrink", "ToMaster", "Write",
]

#: Bytes of a line and of a beat, and ``size`` of a line.
LINE, BEAT, SIZE_LINE = 64, 8, 6


class OpA(IntEnum):
    """Requests that this home knows."""
    PUT_FULL = 0
    PUT_PARTIAL = 1
    GET = 4
    ACQUIRE_BLOCK = 6


class OpB(IntEnum):
    """Probes."""
    PROBE_BLOCK = 6
    PROBE_PERM = 7


class OpC(IntEnum):
    """Answers to probes, and releases."""
    PROBE_ACK = 4
    PROBE_ACK_DATA = 5
    RELEASE = 6
    RELEASE_DATA = 7


class OpD(IntEnum):
    """Answers."""
    ACCESS_ACK = 0
    ACCESS_ACK_DATA = 1
    GRANT = 4
    GRANT_DATA = 5
    RELEASE_ACK = 6


class Grow(IntEnum):
    """What an Acquire asks for."""
    N_TO_B = 0
    N_TO_T = 1


class Cap(IntEnum):
    """What is given, or may be kept."""
    TO_T = 0
    TO_B = 1
    TO_N = 2


class Shrink(IntEnum):
    """What is given up."""
    T_TO_B = 0
    T_TO_N = 1
    B_TO_N = 2
    T_TO_T = 3
    B_TO_B = 4
    N_TO_N = 5


#: What a master holds before and after each Shrink.
_STATES = {Shrink.T_TO_B: ("T", "B"), Shrink.T_TO_N: ("T", "N"), Shrink.B_TO_N: ("B", "N"), Shrink.T_TO_T: ("T", "T"), Shrink.B_TO_B: ("B", "B"),
           Shrink.N_TO_N: ("N", "N")}
_MOST = {Cap.TO_T: "NBT", Cap.TO_B: "NB", Cap.TO_N: "N"}


class A(NamedTuple):
    """A beat of channel A."""
    opcode: int
    param: int
    size: int
    source: int
    address: int
    mask: int = 0xFF
    data: int = 0
    corrupt: int = 0


class B(NamedTuple):
    """A beat of channel B."""
    opcode: int
    param: int
    size: int
    source: int
    address: int


class C(NamedTuple):
    """A beat of channel C."""
    opcode: int
    param: int
    size: int
    source: int
    address: int
    data: int = 0
    corrupt: int = 0


class D(NamedTuple):
    """A beat of channel D."""
    opcode: int
    param: int
    size: int
    source: int
    sink: int = 0
    denied: int = 0
    data: int = 0
    corrupt: int = 0


class FromMaster(NamedTuple):
    """What the master shows in a cycle: beats that are valid, else None, and its readies. ``e`` is the sink."""
    a: A | None = None
    b_ready: int = 0
    c: C | None = None
    d_ready: int = 0
    e: int | None = None


class ToMaster(NamedTuple):
    """What the home shows in a cycle."""
    a_ready: int = 0
    b: B | None = None
    c_ready: int = 0
    d: D | None = None
    e_ready: int = 0


class HomeError(AssertionError):
    """The master broke a rule of the protocol."""


@dataclass(eq=False)
class Access:
    """An access of a CPU to one word: a write when it has a ``value``, but only of what is ``expected`` there, if anything is. ``result`` is what a
    read saw, or what stood there before a write, whether that was made or not."""
    cpu: int
    address: int
    value: int | None = None
    expected: int | None = None
    result: int = 0
    done: int | None = None     # in which cycle


class Write(NamedTuple):
    """A word that got another value. ``who``: the number of a CPU, ``put`` of an uncached write, ``line`` of the master's cache."""
    cycle: int
    address: int
    old: int
    new: int
    who: int | str


@dataclass(eq=False)
class _Operation:
    """What the home does for one line, one after the other."""
    line: int
    request: list[A] = field(default_factory=list)
    access: Access | None = None
    state: str = "queued"
    due: int = 0
    sink: int = 0
    data: bytes = b""       # of memory that is elsewhere


_Beat = TypeVar("_Beat", A, C)


class Home:
    """Memory that CPUs and one master share.

    The master's caching source is ``cacher``; every other source is uncached. CPUs have caches without limit inside the model; what they do is atomic
    in the cycle in which the home lets them. Everybody sees one order of accesses to a line: that of :attr:`writes`.

    Parameters
    ----------
    latency : cycles, drawn for each step of an operation: to a probe, and to an answer after all probes have been answered.
    broadcast : every operation probes the master, whether it has the line or not, as a home without a directory does.
    ready, pause : how often A, C and E are taken in a cycle, and how often D offers nothing although there is something.
    fault : what to do to a request: ``""``, ``"denied"`` or ``"corrupt"``.
    patience : cycles in which a probe has to be answered, and a grant to be acknowledged, while C and E are taken.

    Members
    -------
    remote : base and size of lines that a device has and not this memory, and ``fetch(address, size, done)``, which reads them: it is called
        once for each Get and Acquire, and calls ``done`` with the bytes, or with none when they are denied, now or later. Lines do not wait for each
        other. Nobody writes there through this home.
    """

    def __init__(
        self, random: Random, *, cacher: int = 0, cpus: int = 2, latency: Callable[[], int] = lambda: 4, broadcast: bool = False, ready: float = 1.0,
        pause: float = 0.0, fault: Callable[[A], str] = lambda _: "", patience: int | None = 64, sinks: int = 2,
    ) -> None:
        self.random, self.cacher, self.latency, self.broadcast, self.ready, self.pause = random, cacher, latency, broadcast, ready, pause
        self.fault, self.patience = fault, patience
        self.memory = HostMemory()
        self.cycle = 0
        self.shows = ToMaster()
        self.stalled = ""                                   # channels of which nothing is taken
        self.writes: list[Write] = []
        self.counts = dict.fromkeys(("probes", "kept", "crossed", "data", "clean", "grants", "accesses"), 0)
        self.longest_probe = 0
        self.remote: tuple[int, int, Callable[[int, int, Callable[[bytes], None]], object]] | None = None
        self._saw = FromMaster()
        self._caches: list[dict[int, str]] = [{} for _ in range(cpus)]    # lines with "B" or "T"; their data are in memory
        self._held: dict[int, str] = {}                     # what the master has, by line
        self._queues: dict[int, deque[_Operation]] = {}
        self._to_probe: deque[tuple[int, B]] = deque()      # not before this cycle
        self._probed: dict[int, tuple[B, int]] = {}         # probes on their way or waiting, by line, and cycles since they were taken, or -1
        self._answers: list[tuple[int, list[D], _Operation | None]] = []
        self._answering: deque[D] = deque()
        self._answers_of: _Operation | None = None
        self._open: dict[int, int] = {}                     # line of the operation that is open, by source
        self._released: set[int] = set()
        self._sinks: list[_Operation | None] = [None] * sinks
        self._granted: dict[int, int] = {}                  # cycles since the last beat of the grant, by sink
        self._burst_a: list[A] = []
        self._burst_c: list[C] = []
        self._hammer: tuple[Sequence[int], float] | None = None
        self._unique = 0
        self._busy: set[int] = set()                        # CPUs with an access that is not done

    # What tests ask for.

    def access(self, cpu: int, address: int, value: int | None = None, expected: int | None = None) -> Access:
        """A CPU reads, or writes ``value`` to, the word at ``address``, when the home lets it; with ``expected`` in one step, if that stands there.
        One access a CPU at a time."""
        if cpu in self._busy:
            raise ValueError(f"CPU {cpu} must have no other access open")
        access = Access(cpu, address, value, expected)
        line = address // LINE
        have = self._caches[cpu].get(line, "N")
        if line not in self._queues and (have == "T" or (have == "B" and value is None)):
            self._access(access)
            return access
        self._busy.add(cpu)
        self._queues.setdefault(line, deque()).append(_Operation(line, access=access))
        return access

    def probe(self, line: int, cap: Cap = Cap.TO_N) -> None:
        """Probe the master for a line for no reason."""
        if line in self._queues:
            raise ValueError(f"Line {line:#x} must have no operation that is open")
        self._queues[line] = deque([_Operation(line, state=f"probe {cap.value}")])

    def hammer(self, addresses: Sequence[int], rate: float) -> None:
        """From now on CPUs that are idle begin an access to one of these words with this probability in a cycle. Each write has its own value."""
        self._hammer = (addresses, rate) if rate else None

    def word(self, address: int) -> int:
        """What stands there, for all but the master's cache."""
        return int.from_bytes(self.memory.read(address, BEAT), "little")

    @property
    def idle(self) -> bool:
        """Nothing is open."""
        return not (self._queues or self._to_probe or self._probed or self._answers or self._answering or self._released)

    def holds(self, line: int) -> str:
        """What the master has of a line, as far as the home knows: N, B or T."""
        return self._held.get(line, "N")

    # A cycle.

    def step(self, saw: FromMaster) -> ToMaster:
        """One cycle in which the master showed ``saw`` while the home showed what the last call returned; what it shows in the next."""
        if saw.c is not None and saw.c.opcode not in (OpC.PROBE_ACK_DATA, OpC.RELEASE_DATA):
            saw = saw._replace(c=saw.c._replace(data=0))    # where there are no data their wires may show anything
        shown, before = self.shows, self._saw
        for name in "ace":
            was, now = getattr(before, name), getattr(saw, name)
            _check(was is None or was == now, f"channel {name.upper()} showed {was}, which was not taken, and now {now}")
        if shown.a_ready and saw.a is not None:
            self._take_a(saw.a)
        if shown.e_ready and saw.e is not None:
            self._take_e(saw.e)
        if shown.c_ready and saw.c is not None:
            self._take_c(saw.c)
        if shown.b is not None and saw.b_ready:
            self._probed[shown.b.address // LINE] = (shown.b, 0)
        if shown.d is not None and saw.d_ready:
            self._delivered(shown.d)
        self._saw = FromMaster(
            None if shown.a_ready else saw.a, 0, None if shown.c_ready else saw.c, 0, None if shown.e_ready else saw.e)
        self.cycle += 1
        self._patience(shown)
        self._advance()
        self.shows = self._show(shown, saw)
        return self.shows

    def _show(self, shown: ToMaster, saw: FromMaster) -> ToMaster:
        b, d = shown.b, shown.d
        if b is None or saw.b_ready:
            b = None
            if self._to_probe and self._to_probe[0][0] <= self.cycle:
                b = self._to_probe.popleft()[1]
        if d is None or saw.d_ready:
            d = None
            if not self._answering:
                due = [answer for answer in self._answers if answer[0] <= self.cycle]
                if due:
                    answer = self.random.choice(due)
                    self._answers.remove(answer)
                    self._answering.extend(answer[1])
                    self._answers_of = answer[2]
            if self._answering and self.random.random() >= self.pause:
                d = self._answering.popleft()
        readies = (int(name not in self.stalled and self.random.random() < self.ready) for name in "ace")
        a_ready, c_ready, e_ready = readies
        return ToMaster(a_ready, b, c_ready, d, e_ready)

    def _patience(self, shown: ToMaster) -> None:
        for line, (probe, since) in self._probed.items():
            if since >= 0:
                self._probed[line] = (probe, since + shown.c_ready)
                self.longest_probe = max(self.longest_probe, since + 1)
                _check(self.patience is None or since < self.patience, f"{probe} was not answered in {self.patience} cycles")
        for sink, since in self._granted.items():
            self._granted[sink] = since + shown.e_ready
            _check(self.patience is None or since < self.patience, f"the grant of sink {sink} was not acknowledged in {self.patience} cycles")

    # What comes from the master.

    def _take_a(self, beat: A) -> None:
        first = not self._burst_a
        _check(beat.opcode in list(OpA), f"{beat} is nothing that this home knows")
        _check(not beat.corrupt, f"{beat} is corrupt")
        if first:
            line = beat.address // LINE
            _check(beat.source not in self._open, f"{beat} has the source of an operation that is open")
            _check(beat.size <= SIZE_LINE and beat.address % (1 << beat.size) == 0, f"the address of {beat} is no multiple of its size")
            if beat.opcode == OpA.ACQUIRE_BLOCK:
                _check(beat.source == self.cacher, f"{beat} is from a source that caches nothing")
                _check(beat.param in list(Grow) and beat.size == SIZE_LINE, f"{beat} does not ask for a line")
                _check(self.holds(line) == "N", f"{beat} is for a line of which the master has {self.holds(line)}")
                _check(line not in self._released, f"{beat} is for a line whose release is not acknowledged")
            else:
                _check(beat.source != self.cacher, f"{beat} is uncached, from the source that caches")
                _check(beat.param == 0, f"{beat} must have no param")
        if beat.opcode != OpA.PUT_PARTIAL:
            _check(beat.mask == _mask(beat), f"the mask of {beat} must be {_mask(beat):#x}")
        whole = self._gather(self._burst_a, beat, _beats(beat.size) if beat.opcode <= OpA.PUT_PARTIAL else 1)
        if whole:
            self._open[beat.source] = beat.address // LINE
            self._queues.setdefault(beat.address // LINE, deque()).append(_Operation(beat.address // LINE, request=whole))

    def _gather(self, burst: list[_Beat], beat: _Beat, beats: int) -> list[_Beat]:
        """Add a beat to the message that has begun; all of it when this was the last."""
        if burst:
            same = beat._replace(data=0)
            first = burst[0]._replace(data=0)
            if isinstance(beat, A) and isinstance(first, A) and beat.opcode == OpA.PUT_PARTIAL:
                same, first = same._replace(mask=0), first._replace(mask=0)
            _check(same == first, f"{beat} is between the beats of {burst[0]}")
        burst.append(beat)
        if len(burst) < beats:
            return []
        whole = list(burst)
        burst.clear()
        return whole

    def _take_c(self, beat: C) -> None:
        line, first = beat.address // LINE, not self._burst_c
        _check(beat.opcode in list(OpC) and beat.param in list(Shrink), f"{beat} is nothing that this home knows")
        _check(beat.size == SIZE_LINE and beat.address % LINE == 0 and beat.source == self.cacher and not beat.corrupt, f"{beat} is for no line")
        opcode, param = OpC(beat.opcode), Shrink(beat.param)
        has_data, is_release = opcode in (OpC.PROBE_ACK_DATA, OpC.RELEASE_DATA), opcode in (OpC.RELEASE, OpC.RELEASE_DATA)
        if first:
            old, new = _STATES[param]
            _check(old == self.holds(line), f"{beat} is from a state in which the master is not, but {self.holds(line)}")
            _check(line not in self._released, f"{beat} is for a line whose release is not acknowledged")
            _check(not has_data or old == "T", f"{beat} brings data of a line that was not owned")
            _check(not any(op is not None and op.line == line for op in self._sinks), f"{beat} is for a line whose grant is not acknowledged")
            if is_release:
                _check(old != new, f"{beat} gives nothing back")
            else:
                probe, since = self._probed.get(line, (None, -1))
                _check(probe is not None and since >= 0, f"{beat} answers no probe")
                assert probe is not None
                _check(new in _MOST[Cap(probe.param)], f"{beat} keeps more than {probe} lets it")
                _check(not (has_data and probe.opcode == OpB.PROBE_PERM), f"{beat} brings data that {probe} did not ask for")
        whole = self._gather(self._burst_c, beat, _beats(beat.size) if has_data else 1)
        if not whole:
            return
        if has_data:
            for index, piece in enumerate(whole):
                self._write(beat.address + BEAT * index, piece.data, "line")
        self.counts["data" if has_data else "clean"] += self.holds(line) == "T"
        self._held[line] = _STATES[param][1]
        if is_release:
            self._released.add(line)
            self.counts["crossed"] += line in self._probed
            self._answers.append((self.cycle + self.latency(), [D(OpD.RELEASE_ACK, 0, SIZE_LINE, beat.source)], _Operation(line)))
        else:
            self.counts["kept"] += self._probed.pop(line)[1] > 8
            operation = self._queues[line][0]
            operation.state, operation.due = "waiting", self.cycle + self.latency()

    def _take_e(self, sink: int) -> None:
        operation = self._sinks[sink] if sink < len(self._sinks) else None
        _check(operation is not None and sink in self._granted, f"GrantAck of sink {sink} acknowledges nothing that has been granted")
        assert operation is not None
        self._sinks[sink] = None
        del self._granted[sink]
        self._finish(operation)

    def _delivered(self, beat: D) -> None:
        if self._answering:
            return
        operation = self._answers_of
        assert operation is not None
        if beat.opcode == OpD.RELEASE_ACK:
            self._released.discard(operation.line)
        else:
            del self._open[beat.source]
        if beat.opcode in (OpD.GRANT, OpD.GRANT_DATA):
            self._granted[beat.sink] = 0

    # What the home does.

    def _advance(self) -> None:
        if self._hammer is not None:
            addresses, rate = self._hammer
            for cpu in range(len(self._caches)):
                if cpu not in self._busy and self.random.random() < rate:
                    self._strike(cpu, self.random.choice(addresses))
        for queue in list(self._queues.values()):
            operation = queue[0]
            if operation.state == "queued" or operation.state.startswith("probe "):
                self._begin(operation)
            elif operation.state == "waiting" and operation.due <= self.cycle:
                if operation.request and self._is_remote(operation.request[0].address):
                    self._fetch(operation, operation.request[0])
                else:
                    self._perform(operation)
            elif operation.state == "fetched":
                self._perform(operation)

    def _is_remote(self, address: int) -> bool:
        return self.remote is not None and self.remote[0] <= address < self.remote[0] + self.remote[1]

    def _fetch(self, operation: _Operation, request: A) -> None:
        _check(request.opcode > OpA.PUT_PARTIAL, f"{request} writes to a line that a device has")
        assert self.remote is not None
        operation.state = "fetching"

        def done(data: bytes) -> None:
            operation.data, operation.state = data, "fetched"

        self.remote[2](request.address // BEAT * BEAT, BEAT * _beats(request.size), done)

    def _strike(self, cpu: int, address: int) -> None:
        choice = self.random.random()
        if choice < 0.1:
            self._caches[cpu].pop(address // LINE, None)
        elif choice < 0.5:
            self.access(cpu, address)
        else:
            self._unique += 1
            self.access(cpu, address, cpu + 1 << 56 | self._unique)

    def _begin(self, operation: _Operation) -> None:
        line, held = operation.line, self.holds(operation.line)
        acquires = bool(operation.request) and operation.request[0].opcode == OpA.ACQUIRE_BLOCK
        reads = operation.access is not None and operation.access.value is None or (operation.request and operation.request[0].opcode == OpA.GET)
        forced = operation.state.startswith("probe ")
        if forced or (not acquires and (self.broadcast or held == "T" or (held == "B" and not reads))):
            cap = Cap(int(operation.state[-1])) if forced else Cap.TO_B if reads and self.random.random() < 0.5 else Cap.TO_N
            probe = B(OpB.PROBE_BLOCK, cap, SIZE_LINE, self.cacher, line * LINE)
            operation.state = "probing"
            self._probed[line] = (probe, -1)
            self._to_probe.append((self.cycle + self.latency(), probe))
            self.counts["probes"] += 1
        else:
            operation.state, operation.due = "waiting", self.cycle + self.latency()

    def _perform(self, operation: _Operation) -> None:
        line, access = operation.line, operation.access
        if access is not None:
            for cache in self._caches:
                if cache is not self._caches[access.cpu] and line in cache:
                    if access.value is not None:
                        del cache[line]
                    else:
                        cache[line] = "B"
            self._caches[access.cpu][line] = "B" if access.value is None else "T"
            self._busy.discard(access.cpu)
            self._access(access)
            self._finish(operation)
        elif operation.request:
            self._serve(operation, operation.request[0])
        else:
            self._finish(operation)

    def _access(self, access: Access) -> None:
        self.counts["accesses"] += 1
        access.result, access.done = self.word(access.address), self.cycle
        if access.value is not None and access.expected in (None, access.result):
            self._write(access.address, access.value, access.cpu)

    def _serve(self, operation: _Operation, request: A) -> None:
        """Answer a request of the master. The data of CPUs' caches are in memory, so what is left to do is to take the lines from them."""
        unread = operation.state == "fetched" and not operation.data
        fault, answer = "denied" if unread else self.fault(request), D(OpD.ACCESS_ACK, 0, request.size, request.source)
        denied = int(fault == "denied")
        if request.opcode == OpA.ACQUIRE_BLOCK:
            if None not in self._sinks:
                return
            operation.sink = self.random.choice([sink for sink, user in enumerate(self._sinks) if user is None])
            self._sinks[operation.sink] = operation
            operation.state = "granted"
            self.counts["grants"] += 1
            if not denied:
                self._held[operation.line] = "T"
            alone = denied and self.random.random() < 0.5
            answer = answer._replace(opcode=OpD.GRANT if alone else OpD.GRANT_DATA, param=Cap.TO_T, sink=operation.sink)
        elif request.opcode == OpA.GET:
            answer = answer._replace(opcode=OpD.ACCESS_ACK_DATA)
        if request.opcode != OpA.GET and not denied:
            for cache in self._caches:
                cache.pop(operation.line, None)
        if request.opcode <= OpA.PUT_PARTIAL and not denied:
            for index, beat in enumerate(operation.request):
                self._write(request.address // BEAT * BEAT + BEAT * index, beat.data, "put", beat.mask)
        self._answers.append((self.cycle, self._beats(answer._replace(denied=denied), operation, fault), operation))
        if request.opcode != OpA.ACQUIRE_BLOCK:
            self._finish(operation)

    def _beats(self, answer: D, operation: _Operation, fault: str) -> list[D]:
        if answer.opcode not in (OpD.ACCESS_ACK_DATA, OpD.GRANT_DATA):
            return [answer]
        request = operation.request[0]
        start, count = request.address // BEAT * BEAT, _beats(request.size)
        data = operation.data or self.memory.read(start, BEAT * count)
        beats = [answer._replace(data=int.from_bytes(data[BEAT * index:][:BEAT], "little")) for index in range(count)]
        bad = range(count) if fault == "denied" else [self.random.randrange(count)] if fault == "corrupt" else ()
        for index in bad:
            beats[index] = answer._replace(data=self.random.getrandbits(64), corrupt=1)
        return beats

    def _write(self, address: int, value: int, who: int | str, mask: int = 0xFF) -> None:
        _check(not self._is_remote(address), f"{who} writes to a line at {address:#x} that a device has")
        old = self.word(address)
        self.memory.write(address, value.to_bytes(BEAT, "little"), mask)
        if (new := self.word(address)) != old or who != "line":
            self.writes.append(Write(self.cycle, address, old, new, who))

    def _finish(self, operation: _Operation) -> None:
        queue = self._queues[operation.line]
        assert queue.popleft() is operation
        if not queue:
            del self._queues[operation.line]


def _check(holds: bool, says: str) -> None:
    if not holds:
        raise HomeError(says)


def _beats(size: int) -> int:
    return max(1, (1 << size) // BEAT)


def _mask(beat: A) -> int:
    """Bytes of the bus that a message of this size and place uses."""
    size = min(1 << beat.size, BEAT)
    return ((1 << size) - 1) << beat.address % BEAT // size * size
