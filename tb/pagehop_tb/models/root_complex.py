"""Root complex of one host: posted, non-posted and completion paths with delays of their own, between a link and the host's memory and CPU.

A host with several ports has one object a port; each knows its peers (:class:`Peer`), and hands over what is for the devices there.
"""

from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from functools import partial
from random import Random

from cocotb.triggers import Event

from pagehop_tb.pins import Fabric, TlpPortAgent
from pagehop_tb.protocol import FlowClass, Kind, Tlp, answer, expand_byte_enables, memory_write, read_completions, request_bytes
from pagehop_tb.protocol.requests import byte_range

from .atomics import NAMES, apply
from .delay import Delay
from .memory import HostMemory
from .observer import Observer, Status

__all__ = ["Injection", "Peer", "RootComplex", "RootComplexConfig"]

#: What is added to a channel's number for posted TLPs to other ports in it.
PEERS = 16


@dataclass(frozen=True, slots=True)
class RootComplexConfig:
    """Behaviour of a root complex. Delays are cycles.

    ``posted``: from arrival to visibility; ``read``: from arrival of a read or AtomicOp to its taking the memory; ``atomic``: of an AtomicOp, when
    it is not that of reads; ``gap``: between the
    completions of a request; ``down``: of what the CPU sends; ``response``: from arrival of a completion to the CPU. ``cut`` is the probability
    that the completions of a read end at random boundaries rather than as late as they may; ``torn`` that a read takes the memory anew for each
    of its completions. ``relax``: RO and IDO really reorder. ``timeout`` of the CPU's own requests. ``msi`` is the interrupt range: base, size.
    ``far``: base and size of memory behind an aperture, and what is added to the way there. ``far_apart``: a switch below the port leads there, so
    that this is all of the delay, and TLPs to the aperture have no order with those to the host.
    ``peer``: from arrival of a TLP for another port of the host until that port has it; ``peer_depth``: TLPs of a class that other ports have
    handed to this one and that it has not sent yet. ``peer_ahead``: probability that a posted one waits only for those to other ports before it,
    not until what the host took is visible in its memory, for the two are ways of their own in the host. What is for the host itself waits for both.
    ``completion_ido`` sets IDO in completions, which a completer may do. ``classes_apart``: traffic classes have no order among them (a virtual
    channel each); without it all share one channel, and the host keeps them in one order.

    Rules that a host must keep (O5), and that a test may leave out to see that they matter: ``posted_in_order`` (i), ``requests_push`` (ii: requests
    wait for earlier posted writes), ``completions_push`` (iii: so do completions for the CPU), ``down_in_order`` (iv: completions wait for what the
    CPU posted).
    """

    posted: Delay = field(default_factory=lambda: Delay(20, 120))
    read: Delay = field(default_factory=lambda: Delay(40, 200))
    atomic: Delay | None = None
    gap: Delay = field(default_factory=lambda: Delay(0, 8))
    down: Delay = field(default_factory=lambda: Delay(5, 30))
    response: Delay = field(default_factory=lambda: Delay(5, 30))
    rcb: int = 64
    mps: int = 256
    cut: float = 0.3
    torn: float = 0.0
    relax: bool = True
    timeout: int = 50_000
    requester_id: int = 0x0000
    msi: tuple[int, int] = (0xFEE0_0000, 0x10_0000)
    far: tuple[int, int, Delay] | None = None
    far_apart: bool = False
    peer: Delay = field(default_factory=lambda: Delay(20, 120))
    peer_depth: int = 8
    peer_ahead: float = 0.0
    completion_ido: bool = False
    classes_apart: bool = False
    posted_in_order: bool = True
    requests_push: bool = True
    completions_push: bool = True
    down_in_order: bool = True


@dataclass(slots=True)
class Injection:
    """An error for the ``nth`` read or AtomicOp (from 0) that ``matches``.

    ``status``: UR, CA, POISONED, or TIMEOUT for silence; with TIMEOUT a ``late`` of n sends the right answer after n cycles after all.
    """

    matches: Callable[[Tlp], bool]
    status: Status
    nth: int = 0
    late: int | None = None
    seen: int = 0
    done: bool = False


@dataclass(slots=True)
class _Request:
    """A request of the CPU that is not answered yet."""

    tlp: Tlp
    answered: Event
    status: int = Status.TIMEOUT
    parts: list[bytes] = field(default_factory=list)
    next_address: int = 0
    remaining: int = 0


@dataclass(frozen=True, slots=True)
class Peer:
    """Another port of the same host: requests into ``ranges`` (base, size) go there, and completions for the requester IDs ``identities``."""

    port: "RootComplex"
    ranges: tuple[tuple[int, int], ...] = ()
    identities: Container[int] = ()

    def has(self, address: int) -> bool:
        """The address is that of a register or of memory of a device at the port."""
        return any(base <= address < base + size for base, size in self.ranges)


class RootComplex:
    """Everything between one port of ``host`` and its memory.

    Order kept on the way in: a posted write without RO becomes visible after all posted writes that arrived before it (O5 i); reads, AtomicOps and
    completions take effect after the posted writes that arrived before them, whatever the requester IDs (O5 ii, iii), unless IDO or RO lets them
    pass. MSIs are posted writes. On the way out: posted in order, nothing passes it that may not (O5 iv).
    Credits of what arrives are returned when it has taken effect.

    A TLP for a device at another port (:meth:`connect`) takes effect, in the same order, when that port puts it behind all that goes down there, what
    the CPU posts included; no observer is told. Its credits are returned when the port has sent it. While the port has ``peer_depth`` of its class
    it waits, and so does what came later and may not pass it by table 2-40; requests pass requests, and so do completions of different requests.

    *Members*: ``on_msi(address, data)``; ``on_message(tlp)``; ``injections``, the errors still to be made; ``idle``; ``lost``, the host is gone.
    """

    def __init__(self, host: int, port: TlpPortAgent, memory: HostMemory, fabric: Fabric, observer: Observer, config: RootComplexConfig,
                 seed: int) -> None:
        self.host = host
        self.port = port
        self.memory = memory
        self.fabric = fabric
        self.observer = observer
        self.config = config
        self.random = Random(seed)
        self.injections: list[Injection] = []
        self.on_msi: Callable[[int, bytes], None] | None = None
        self.on_message: Callable[[Tlp], None] | None = None
        self.unexpected: list[Tlp] = []
        self.lost = False
        self._posted_until: dict[int, int] = {}                    # by channel
        self._posted_until_of: dict[tuple[int, int], int] = {}     # by channel and requester
        self._completed_until: dict[tuple[int, int], int] = {}     # by requester and tag
        self._down_until = 0
        self._held_back: deque[Tlp] = deque()
        self._pending = 0
        self._free_tags = list(range(255, -1, -1))
        self._tag_freed = Event()
        self._requests: dict[int, _Request] = {}
        self._peers: list[Peer] = []
        self._handed: dict[int, tuple[Tlp, RootComplex]] = {}      # by other ports and not sent yet, by id
        self._stuck: list[Tlp] = []                                # should have taken effect, and must wait for a peer
        self._refused: list[RootComplex] = []                      # ports for which there was no room here
        port.auto_release = False
        port.on_tlp = self._arrived
        port.on_sent = self._sent

    def connect(self, peer: Peer) -> None:
        """Send what is for ``peer`` there."""
        self._peers.append(peer)

    def route(self, address: int) -> "RootComplex":
        """The port that leads to the device with this address; this one when it is no peer's."""
        return next((peer.port for peer in self._peers if peer.has(address)), self)

    @property
    def idle(self) -> bool:
        """Nothing is on its way through, in either direction."""
        return not self._pending and not self._requests and self.port.idle

    # In

    def lose(self) -> None:
        """The host is gone (surprise link down, power): the link takes what comes and drops it, and nothing is answered or sent any more.

        What the memory holds stays; a reboot clears it (:meth:`HostMemory.clear`).
        """
        self.lost = True

    def restore(self) -> None:
        """The host is back. What was under way when it was lost must have ended: wait for the longest delay first."""
        self.lost = False

    def _arrived(self, tlp: Tlp) -> None:
        if self.lost:
            self.port.release(tlp)
            return
        self._pending += 1
        flow, now = tlp.flow, self.fabric.cycle
        if flow is FlowClass.POSTED:
            barrier = self._barrier(tlp, tlp.requester_id, tlp.relaxed_ordering) if self.config.posted_in_order else 0
            when = max(now + self._way(tlp, self.config.posted), barrier)
            for channel in self._channels(tlp):
                self._posted_until[channel] = max(when, self._posted_until.get(channel, 0))
                self._posted_until_of[channel, tlp.requester_id] = max(when, self._posted_until_of.get((channel, tlp.requester_id), 0))
            self.fabric.at(when, partial(self._take_effect, tlp))
        elif flow is FlowClass.NON_POSTED:
            # RO lets an AtomicOp pass, never a read (C2, B2).
            barrier = self._barrier(tlp, tlp.requester_id, tlp.relaxed_ordering and tlp.has_data) if self.config.requests_push else 0
            delay = self.config.atomic if tlp.is_atomic and self.config.atomic is not None else self.config.read
            self.fabric.at(max(now + self._way(tlp, delay), barrier), partial(self._take_effect, tlp))
        else:
            barrier = self._barrier(tlp, tlp.completer_id, tlp.relaxed_ordering) if self.config.completions_push else 0
            # Completions of one request stay in order, others need not.
            until = self._completed_until.get((tlp.requester_id, tlp.tag), 0)
            when = max(now + self._way(tlp, self.config.response), barrier, until)
            self._completed_until[tlp.requester_id, tlp.tag] = when
            self.fabric.at(when, partial(self._take_effect, tlp))

    def _way(self, tlp: Tlp, delay: Delay) -> int:
        """Cycles until ``tlp`` may take effect, where ``delay`` is that of its class to the host."""
        if self._peers and self._peer(tlp) is not None:
            return self.config.peer.draw(self.random)
        if self.config.far is None or not self._is_far(tlp):
            return delay.draw(self.random)
        return (0 if self.config.far_apart else delay.draw(self.random)) + self.config.far[2].draw(self.random)

    def _is_far(self, tlp: Tlp) -> bool:
        return self.config.far is not None and not tlp.is_completion and self.config.far[0] <= tlp.address < self.config.far[0] + self.config.far[1]

    def _peer(self, tlp: Tlp) -> "RootComplex | None":
        """The other port that ``tlp`` is for."""
        for peer in self._peers:
            if tlp.requester_id in peer.identities if tlp.is_completion else tlp.is_memory and peer.has(tlp.address):
                return peer.port
        return None

    def _barrier(self, tlp: Tlp, agent: int, relaxed: bool) -> int:
        """Cycle before which ``tlp`` must not take effect: that of the last posted write that it may not pass (table 2-40, column P)."""
        channels = self._channels(tlp)
        channel = channels[-1] if len(channels) > 1 and self.random.random() < self.config.peer_ahead else channels[0]
        if not self.config.relax:
            return self._posted_until.get(channel, 0)
        if relaxed:
            return 0
        return self._posted_until_of.get((channel, agent), 0) if tlp.id_ordering else self._posted_until.get(channel, 0)

    def _channel(self, tlp: Tlp) -> int:
        channel = tlp.traffic_class if self.config.classes_apart else 0
        return channel + 8 if self.config.far_apart and self._is_far(tlp) else channel

    def _channels(self, tlp: Tlp) -> tuple[int, ...]:
        """Those in which ``tlp`` has its place: its channel, and that of posted TLPs to other ports."""
        channel = self._channel(tlp)
        ahead = self.config.peer_ahead and tlp.flow is FlowClass.POSTED and self._peer(tlp) is not None
        return (channel, channel + PEERS) if ahead else (channel,)

    def _may_pass(self, tlp: Tlp, earlier: Tlp) -> bool:
        """Whether ``tlp`` may take effect although ``earlier`` is stuck: table 2-40, as in :meth:`_barrier`."""
        if earlier.flow is not FlowClass.POSTED:
            # The completions of one request stay in order.
            return not (tlp.is_completion and earlier.is_completion and (tlp.requester_id, tlp.tag) == (earlier.requester_id, earlier.tag))
        config = self.config
        if len(self._channels(tlp)) > 1 and self._peer(earlier) is None:
            return True
        if not (config.posted_in_order, config.requests_push, config.completions_push)[tlp.flow] or self._channel(tlp) != self._channel(earlier):
            return True
        if not config.relax:
            return False
        agent = tlp.completer_id if tlp.is_completion else tlp.requester_id
        relaxed = tlp.relaxed_ordering and (tlp.flow is not FlowClass.NON_POSTED or tlp.has_data)
        return relaxed or (tlp.id_ordering and agent != earlier.requester_id)

    def _take_effect(self, tlp: Tlp) -> None:
        if (self._stuck and not all(self._may_pass(tlp, earlier) for earlier in self._stuck)) or not self._perform(tlp):
            self._stuck.append(tlp)

    def _perform(self, tlp: Tlp) -> bool:
        """Let ``tlp`` take effect. Returns whether it could: another port may have no room for it."""
        peer = self._peer(tlp) if self._peers and not self.lost else None
        if peer is not None:
            return peer.forward(tlp, self)
        (self._perform_posted, self._perform_request, self._perform_completion)[tlp.flow](tlp)
        return True

    def _retry(self) -> None:
        stuck, self._stuck = self._stuck, []
        for tlp in stuck:
            self._take_effect(tlp)

    def _perform_posted(self, tlp: Tlp) -> None:
        self._pending -= 1
        self.port.release(tlp)
        if self.lost:
            return
        cycle = self.fabric.cycle
        if tlp.kind is not Kind.MWR:
            if self.on_message is not None:
                self.on_message(tlp)
            return
        address, (base, size) = tlp.address, self.config.msi
        if base <= address < base + size:
            self.observer.msi(cycle, self.host, address, tlp.data)
            if self.on_msi is not None:
                self.on_msi(address, tlp.data)
            return
        enables = expand_byte_enables(tlp)
        self.memory.write(address, tlp.data, enables)
        self.observer.performed_write(cycle, self.host, address, tlp.data, enables, tlp.requester_id, "link")

    def _perform_request(self, tlp: Tlp) -> None:
        self.port.release(tlp)
        if self.lost:
            self._pending -= 1
            return
        injection = self._injected(tlp) if self.injections else None
        if injection is not None:
            address, size = request_bytes(tlp)
            self.observer.injected(self.fabric.cycle, self.host, address, size, injection.status, tlp.requester_id)
            if injection.status in (Status.UNSUPPORTED_REQUEST, Status.COMPLETER_ABORT):
                self._reply([answer(tlp, self.config.requester_id, injection.status)])
                return
            if injection.status is Status.TIMEOUT:
                if injection.late is None:
                    self._pending -= 1
                else:
                    self.fabric.after(injection.late, lambda: self._answer(tlp))
                return
        self._answer(tlp, poisoned=injection is not None)

    def _answer(self, tlp: Tlp, poisoned: bool = False) -> None:
        if tlp.kind in (Kind.MRD, Kind.MRDLK):
            self._read(tlp, poisoned)
        elif tlp.is_atomic:
            self._atomic(tlp, poisoned)
        else:
            # I/O and configuration requests and deferrable writes have no place in a root complex.
            self._reply([answer(tlp, self.config.requester_id, Status.UNSUPPORTED_REQUEST)])

    def _read(self, tlp: Tlp, poisoned: bool) -> None:
        data = self.memory.read(tlp.address, 4 * tlp.length)
        config, random = self.config, self.random
        choose: Callable[[int], int] | None = None
        if config.cut and random.random() < config.cut:
            choose = random.randrange
        completions = read_completions(tlp, data, config.requester_id, config.rcb, config.mps, choose)
        if poisoned:
            random.choice(completions).poisoned = True
        if len(completions) > 1 and config.torn and random.random() < config.torn:
            self._reply(completions, tlp)
            return
        address, size = request_bytes(tlp)
        self.observer.performed_read(self.fabric.cycle, self.host, address, size, tlp.requester_id, tlp.tag)
        self._reply(completions)

    def _atomic(self, tlp: Tlp, poisoned: bool) -> None:
        size = 2 * tlp.length if tlp.kind is Kind.CAS else 4 * tlp.length
        op, old = NAMES[tlp.kind], self.memory.read(tlp.address, size)
        new = apply(op, old, tlp.data)
        self.memory.write(tlp.address, new)
        self.observer.performed_atomic(self.fabric.cycle, self.host, tlp.address, op, old, new, tlp.requester_id, tlp.tag)
        completion = answer(tlp, self.config.requester_id, 0, old, size, 0)
        completion.poisoned = poisoned
        self._reply([completion])

    def _reply(self, completions: list[Tlp], taken_late: Tlp | None = None) -> None:
        """Send the completions of one request in order, others in between. With ``taken_late`` each takes its data of that read when it leaves."""
        when, offset = self.fabric.cycle, 0
        self._pending += len(completions) - 1
        for completion in completions:
            completion.id_ordering = completion.id_ordering or self.config.completion_ido
            when += self.config.gap.draw(self.random)
            if taken_late is None:
                self.fabric.at(when, partial(self._send, completion))
            else:
                self.fabric.at(when, partial(self._send_fresh, taken_late, completion, offset))
                offset += len(completion.data)

    def _send_fresh(self, request: Tlp, completion: Tlp, offset: int) -> None:
        address = request.address + offset
        completion.data = self.memory.read(address, len(completion.data))
        start, size = request_bytes(request)
        first, last = max(start, address), min(start + size, address + len(completion.data))
        self.observer.performed_read(self.fabric.cycle, self.host, first, last - first, request.requester_id, request.tag)
        self._send(completion)

    def _send(self, tlp: Tlp) -> None:
        """Let a completion go, behind what the CPU posted before."""
        free = not self.config.down_in_order or (tlp.relaxed_ordering and self.config.relax)
        if free or not (self._held_back or self._down_until > self.fabric.cycle):
            self._leave(tlp)
            return
        # One queue for all: completions of one request must not overtake each other while they wait.
        self._held_back.append(tlp)
        self.fabric.at(self._down_until, lambda: self._leave(self._held_back.popleft()))

    def _leave(self, tlp: Tlp) -> None:
        self._pending -= 1
        if self.lost:
            self._sent(tlp)
        else:
            self.port.queue(tlp)

    # Out: what other ports hand over

    def forward(self, tlp: Tlp, origin: "RootComplex") -> bool:
        """Send ``tlp``, which arrived at the port ``origin``, behind all that goes down here. Returns whether there was room."""
        if sum(other.flow is tlp.flow for other, _ in self._handed.values()) >= self.config.peer_depth:
            self._refused.append(origin)
            return False
        self._handed[id(tlp)] = (tlp, origin)
        origin._pending -= 1
        if tlp.is_completion:
            self._pending += 1
            self._send(tlp)
        else:
            self._down(tlp, 0)
        return True

    def _sent(self, tlp: Tlp) -> None:
        """``tlp`` has left, or is gone with the host: when another port handed it over, there is room again here and there."""
        if id(tlp) not in self._handed:
            return
        _, origin = self._handed.pop(id(tlp))
        origin.port.release(tlp)
        refused, self._refused = self._refused, []
        for other in dict.fromkeys(refused):
            self.fabric.after(1, other._retry)

    def _injected(self, tlp: Tlp) -> Injection | None:
        for injection in self.injections:
            if not injection.done and injection.matches(tlp):
                injection.seen += 1
                if injection.seen > injection.nth:
                    injection.done = True
                    return injection
        return None

    def _perform_completion(self, tlp: Tlp) -> None:
        self._pending -= 1
        self.port.release(tlp)
        request = self._requests.get(tlp.tag)
        if self.lost:
            return
        if request is None or tlp.requester_id != request.tlp.requester_id:
            self.unexpected.append(tlp)
            return
        if tlp.status or not tlp.has_data:
            request.status = tlp.status
        elif tlp.poisoned:
            request.status = Status.POISONED
        elif tlp.byte_count != request.remaining or tlp.lower_address != request.next_address & 0x7F:
            request.status = Status.MALFORMED
        else:
            count = min(request.remaining, len(tlp.data) - (tlp.lower_address & 3))
            request.parts.append(tlp.data[tlp.lower_address & 3:][:count])
            request.next_address += count
            request.remaining -= count
            if request.remaining:
                return
            request.status = Status.SUCCESS
        self._finish(request)

    # Out: requests of the CPU

    def post(self, address: int, data: bytes) -> None:
        """Posted write of the CPU to the link."""
        self._down(memory_write(self.config.requester_id, address, data))

    async def read(self, address: int, size: int, *, ro: bool = False, ido: bool = False, requester: int | None = None) -> tuple[int, bytes]:
        """Read of the CPU through the link: status, and data when that is SUCCESS. ``ro`` is what a host must not set (O-rules).

        ``requester``: the ID of another part of the root complex, whose read this is.
        """
        start, length, first, last = byte_range(address, size)
        requester = self.config.requester_id if requester is None else requester
        tlp = Tlp(Kind.MRD, requester, 0, start, length, first, last, relaxed_ordering=ro, id_ordering=ido)
        return await self._request(tlp, address, size)

    async def config_read(self, target: int, register: int) -> tuple[int, bytes]:
        """Configuration read, type 0, of one dword of the function ``target``."""
        return await self._request(Tlp(Kind.CFGRD0, self.config.requester_id, 0, target << 16 | register & 0xFFC, 1, 0xF), 0, 4)

    async def config_write(self, target: int, register: int, data: bytes) -> int:
        """Configuration write, type 0, of one dword of the function ``target``."""
        tlp = Tlp(Kind.CFGWR0, self.config.requester_id, 0, target << 16 | register & 0xFFC, 1, 0xF, 0, data)
        return (await self._request(tlp, 0, 4))[0]

    async def _request(self, tlp: Tlp, address: int, size: int) -> tuple[int, bytes]:
        while not self._free_tags:
            self._tag_freed.clear()
            await self._tag_freed.wait()
        tlp.tag = self._free_tags.pop()
        # A completion that answers no memory read has byte count 4 and lower address 0; a zero-length read's has byte count 1.
        request = _Request(tlp, Event(), next_address=address if size else address & ~3, remaining=size or 1)
        self._requests[tlp.tag] = request
        self._down(tlp)
        self.fabric.after(self.config.timeout, lambda: self._expire(request))
        await request.answered.wait()
        return request.status, b"".join(request.parts) if request.status == Status.SUCCESS and size else b""

    def _finish(self, request: _Request) -> None:
        del self._requests[request.tlp.tag]
        self._free_tags.append(request.tlp.tag)
        self._tag_freed.set()
        request.answered.set()

    def _expire(self, request: _Request) -> None:
        if self._requests.get(request.tlp.tag) is request:
            # The tag is not used again: a late answer must not meet another request.
            del self._requests[request.tlp.tag]
            request.answered.set()

    def _down(self, tlp: Tlp, delay: int | None = None) -> None:
        """Send what the CPU issued, or another port handed over: posted in order, the rest behind what was posted before it."""
        self._pending += 1
        when = max(self.fabric.cycle + (self.config.down.draw(self.random) if delay is None else delay), self._down_until)
        if tlp.flow is FlowClass.POSTED:
            self._down_until = when
        self.fabric.at(when, lambda: self._leave(tlp))
