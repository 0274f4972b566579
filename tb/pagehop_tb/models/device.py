"""A device function that does DMA, and the link that functions share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from cocotb.triggers import Event

from pagehop_tb.pins import Fabric, TlpPortAgent
from pagehop_tb.protocol import FlowClass, Kind, Tlp, answer, expand_byte_enables, memory_read, memory_write, pieces, read_completions, request_bytes

from .atomics import KINDS, NAMES
from .delay import Delay
from .memory import HostMemory
from .observer import Observer, Status

__all__ = ["DeviceConfig", "DeviceFunction", "DeviceLink", "DmaError"]


class DmaError(Exception):
    """A DMA read or AtomicOp ended with a status that its caller did not expect."""


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """One function. ``tags``: how many requests may be outstanding; with ``ten_bit`` tags are 256 to 1023, else 0 to 255.

    ``timeout``: completion timeout in cycles. ``queue``: TLPs of a class that may wait for the link before a function that issues one blocks.
    ``bar``: base and size of the register range. ``reuse``: a freed tag is the next to be used (the hardest case), else the last.
    ``reuse_timed_out``: so is that of a request that timed out, as a device does that forgets; a late answer then meets another request (H24b).
    ``traffic_class`` of all that it sends by itself.
    """

    name: str
    requester_id: int
    tags: int = 64
    ten_bit: bool = True
    reuse: bool = True
    reuse_timed_out: bool = False
    traffic_class: int = 0
    mps: int = 256
    mrrs: int = 512
    timeout: int = 12_500
    queue: int = 16
    bar: tuple[int, int] | None = None
    register_delay: Delay = field(default_factory=lambda: Delay(4, 40))

    def __post_init__(self) -> None:
        most = 768 if self.ten_bit else 256
        if not 0 <= self.traffic_class <= 7:
            raise ValueError(f"A traffic class is 0 to 7, not {self.traffic_class}")
        if not 1 <= self.tags <= most:
            raise ValueError(f"A function with {'10' if self.ten_bit else '8'}-bit tags has 1 to {most}, not {self.tags}")


@dataclass(slots=True)
class _Pending:
    """A request that is not answered yet. ``data`` are whole dwords from the first requested one."""

    tlp: Tlp
    deadline: int
    address: int
    size: int
    done: Event
    next_address: int
    remaining: int
    parts: list[bytes] = field(default_factory=list)
    poisoned: bool = False
    status: int = -1

    @property
    def data(self) -> bytes:
        """What was read, without the bytes that were not asked for."""
        return b"".join(self.parts)[self.address & 3:][:self.size]


class DeviceLink:
    """Functions behind one port. Routes what arrives, and reports what leaves: the order of its reports is the order on the link."""

    def __init__(self, port: TlpPortAgent, fabric: Fabric, observer: Observer) -> None:
        self.port = port
        self.fabric = fabric
        self.observer = observer
        self.functions: dict[int, DeviceFunction] = {}
        self.unexpected: list[Tlp] = []
        self.messages: list[Tlp] = []
        self._keys = 0
        self._waiting: list[tuple[FlowClass, int, Event]] = []
        port.on_tlp = self._arrived
        port.on_sent = self._sent

    def add(self, function: "DeviceFunction") -> None:
        """Put a function on the link."""
        self.functions[function.config.requester_id] = function

    def key(self) -> int:
        """A number for one TLP."""
        self._keys += 1
        return self._keys

    @property
    def idle(self) -> bool:
        """All requests are answered and all TLPs have left."""
        return self.port.idle and not any(function.outstanding or function.replies for function in self.functions.values())

    async def room(self, flow: FlowClass, queue: int) -> None:
        """Return when fewer than ``queue`` TLPs of the class wait for the link; if not so now, when half of them have left."""
        while self.port.waiting(flow) >= queue:
            freed = Event()
            # Waking a task for every TLP would cost more than the TLP.
            self._waiting.append((flow, queue // 2, freed))
            await freed.wait()

    def _sent(self, tlp: Tlp) -> None:
        if self._waiting:
            self._wake_waiting()
        if tlp.key < 0:
            return
        cycle, name = self.fabric.cycle, self.functions[tlp.requester_id].name
        if tlp.kind is Kind.MWR:
            self.observer.device_write(cycle, name, tlp.address, tlp.data, expand_byte_enables(tlp), tlp.relaxed_ordering, tlp.id_ordering, tlp.key)
        elif tlp.kind is Kind.MRD:
            address, size = request_bytes(tlp)
            self.observer.device_read(cycle, name, address, size, tlp.key, tlp.id_ordering)
        elif tlp.is_atomic:
            self.observer.device_atomic(cycle, name, tlp.address, NAMES[tlp.kind], tlp.data, tlp.key, tlp.relaxed_ordering, tlp.id_ordering)

    def _wake_waiting(self) -> None:
        still = []
        for flow, few, freed in self._waiting:
            if self.port.waiting(flow) <= few:
                freed.set()
            else:
                still.append((flow, few, freed))
        self._waiting = still

    def _arrived(self, tlp: Tlp) -> None:
        if tlp.is_completion:
            function = self.functions.get(tlp.requester_id)
            if function is None or not function.completed(tlp):
                self.unexpected.append(tlp)
            return
        if tlp.is_message:
            self.messages.append(tlp)
            return
        for function in self.functions.values():
            if function.claims(tlp):
                function.accessed(tlp)
                return
        if tlp.flow is FlowClass.NON_POSTED:
            self.port.queue(answer(tlp, next(iter(self.functions), 0), Status.UNSUPPORTED_REQUEST))
        else:
            self.unexpected.append(tlp)


class DeviceFunction:
    """A function of a device: DMA with tags and completion assembly, and registers that the hosts access.

    Everything it issues is in order of issue within its class, and on the link as the ordering table allows.

    *Members*: ``registers``, the memory behind its BAR; ``on_doorbell(offset, data)``, called for each write of a host.
    """

    def __init__(self, link: DeviceLink, config: DeviceConfig, seed: int) -> None:
        self.link = link
        self.config = config
        self.name = config.name
        self.fabric = link.fabric
        self.observer = link.observer
        self.random = Random(seed)
        self.registers = HostMemory()
        self.on_doorbell: Callable[[int, bytes], None] | None = None
        self.replies = 0
        first = 256 if config.ten_bit else 0
        self._free = list(range(first + config.tags - 1, first - 1, -1))
        self._pending: dict[int, _Pending] = {}
        self._freed = Event()
        self._watched = False
        link.add(self)

    @property
    def outstanding(self) -> int:
        """Requests that are not answered yet."""
        return len(self._pending)

    # DMA

    async def write(self, address: int, data: bytes, *, ro: bool = False, ido: bool = False) -> None:
        """Posted write of any size; returns when its TLPs stand in the queue of the link."""
        offset = 0
        for start, size in pieces(address, len(data), self.config.mps):
            tlp = memory_write(self.config.requester_id, start, data[offset:offset + size], relaxed_ordering=ro, id_ordering=ido)
            tlp.traffic_class = self.config.traffic_class
            tlp.key = self.link.key()
            offset += size
            if self.link.port.waiting(FlowClass.POSTED) >= self.config.queue:
                await self.link.room(FlowClass.POSTED, self.config.queue)
            self.link.port.queue(tlp)

    async def read(self, address: int, size: int, *, ro: bool = False, ido: bool = False) -> bytes:
        """Read of any size; returns its data. Raises :class:`DmaError` when a part of it failed."""
        return await self.finish(await self.start_read(address, size, ro=ro, ido=ido))

    async def start_read(self, address: int, size: int, *, ro: bool = False, ido: bool = False) -> list[_Pending]:
        """Issue a read; :meth:`finish` waits for it."""
        return [await self._issue(memory_read(self.config.requester_id, start, count, 0, relaxed_ordering=ro, id_ordering=ido))
                for start, count in pieces(address, size, self.config.mrrs)]

    async def finish(self, requests: list[_Pending]) -> bytes:
        """Wait for requests that were issued, and return their data in order. Raises :class:`DmaError` when one failed."""
        for request in requests:
            if request.status < 0:
                await request.done.wait()
        for request in requests:
            if request.status != Status.SUCCESS:
                raise DmaError(f"{self.name}: {request.tlp} ended with status {Status(request.status).name}")
        return b"".join(request.data for request in requests)

    async def flush(self, address: int) -> None:
        """Zero-length read: earlier writes of this port are visible when it returns."""
        await self.read(address, 0)

    async def start(self, tlp: Tlp) -> _Pending:
        """Issue a read or AtomicOp as it stands, with a tag of this function; :meth:`finish` waits for it."""
        return await self._issue(tlp)

    async def atomic(self, op: str, address: int, operand: bytes, *, ro: bool = False) -> bytes:
        """AtomicOp ``fetch_add``, ``swap`` or ``cas`` (operand: compare, then swap); returns the old value."""
        tlp = Tlp(KINDS[op], self.config.requester_id, 0, address, len(operand) >> 2, 0, 0, operand, ro)
        return await self.finish([await self._issue(tlp)])

    async def interrupt(self, address: int, data: bytes) -> None:
        """MSI: RO and NS are never set."""
        await self.write(address, data)

    async def _issue(self, tlp: Tlp) -> _Pending:
        while not self._free:
            self._freed.clear()
            await self._freed.wait()
        tlp.tag = self._free.pop()
        tlp.traffic_class = self.config.traffic_class
        tlp.key = self.link.key()
        if tlp.is_atomic:
            size = len(tlp.data) // (2 if tlp.kind is Kind.CAS else 1)
            request = _Pending(tlp, 0, tlp.address, size, Event(), 0, size)
        else:
            address, size = request_bytes(tlp)
            request = _Pending(tlp, 0, address, size, Event(), address if size else address & ~3, size or 1)
        request.deadline = self.fabric.cycle + self.config.timeout
        self._pending[tlp.tag] = request
        if not self._watched:
            self._watched = True
            self.fabric.at(request.deadline, self._watch)
        if self.link.port.waiting(FlowClass.NON_POSTED) >= self.config.queue:
            await self.link.room(FlowClass.NON_POSTED, self.config.queue)
        self.link.port.queue(tlp)
        return request

    def completed(self, tlp: Tlp) -> bool:
        """Take a completion. Returns whether it belongs to a request."""
        request = self._pending.get(tlp.tag)
        if request is None:
            return False
        asked = request.tlp
        if tlp.status:
            self._end(request, tlp.status)
        elif (tlp.traffic_class, tlp.relaxed_ordering, tlp.no_snoop) != (asked.traffic_class, asked.relaxed_ordering, asked.no_snoop):
            self._end(request, Status.MALFORMED)
        elif not tlp.has_data or tlp.byte_count != request.remaining or tlp.lower_address != request.next_address & 0x7F:
            self._end(request, Status.MALFORMED)
        else:
            request.poisoned |= tlp.poisoned
            request.parts.append(tlp.data)
            count = min(request.remaining, len(tlp.data) - (request.next_address & 3))
            request.next_address += count
            request.remaining -= count
            if request.remaining == 0:
                self._end(request, Status.POISONED if request.poisoned else Status.SUCCESS)
        return True

    def _end(self, request: _Pending, status: int, free: bool = True) -> None:
        request.status = status
        tlp, cycle = request.tlp, self.fabric.cycle
        data = request.data if status == Status.SUCCESS else b""
        if tlp.is_atomic:
            self.observer.device_atomic_done(cycle, tlp.key, data, status)
        else:
            self.observer.device_read_done(cycle, tlp.key, data, status)
        del self._pending[tlp.tag]
        if free:
            if self.config.reuse:
                self._free.append(tlp.tag)
            else:
                self._free.insert(0, tlp.tag)
            self._freed.set()
        request.done.set()

    def _watch(self) -> None:
        """Time out what is overdue. Requests stand in order of issue, so the first one has the next deadline."""
        now = self.fabric.cycle
        while self._pending:
            request = next(iter(self._pending.values()))
            if request.deadline > now:
                self.fabric.at(request.deadline, self._watch)
                return
            # A late completion must not meet another request: the tag is given up, unless the test wants to see just that.
            self._end(request, Status.TIMEOUT, free=self.config.reuse_timed_out)
        self._watched = False

    # Registers

    def claims(self, tlp: Tlp) -> bool:
        """Whether a request is for this function."""
        if tlp.is_config:
            return tlp.address >> 16 == self.config.requester_id
        if self.config.bar is None or not tlp.is_memory:
            return False
        base, size = self.config.bar
        return base <= tlp.address < base + size

    def accessed(self, tlp: Tlp) -> None:
        """Serve a request of a host: writes at once, reads after a delay."""
        if tlp.kind is Kind.MWR:
            enables = expand_byte_enables(tlp)
            self.registers.write(tlp.address, tlp.data, enables)
            self.observer.device_mmio_write(self.fabric.cycle, self.name, tlp.address, tlp.data, enables)
            if self.on_doorbell is not None and self.config.bar is not None:
                self.on_doorbell(tlp.address - self.config.bar[0], tlp.data)
            return
        self.replies += 1
        self.fabric.after(self.config.register_delay.draw(self.random), lambda: self._reply(tlp))

    def _reply(self, tlp: Tlp) -> None:
        self.replies -= 1
        identity, port = self.config.requester_id, self.link.port
        if tlp.kind in (Kind.MRD, Kind.MRDLK):
            data = self.registers.read(tlp.address, 4 * tlp.length)
            address, size = request_bytes(tlp)
            self.observer.device_mmio_read(self.fabric.cycle, self.name, address, data[address - tlp.address:][:size],
                                           tlp.relaxed_ordering, tlp.id_ordering)
            for completion in read_completions(tlp, data, identity, 128, self.config.mps):
                port.queue(completion)
        elif tlp.is_config:
            # Every function reads as the same: what matters is that the answer finds its way.
            port.queue(answer(tlp, identity, 0, b"" if tlp.has_data else identity.to_bytes(2, "little") + b"\x86\x80"))
        else:
            port.queue(answer(tlp, identity, Status.UNSUPPORTED_REQUEST))
