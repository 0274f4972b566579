"""Both streams of one link and their credits: what stands at the other end of a port of the hardware."""

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from cocotb.triggers import Event

from pagehop_tb.protocol import FlowClass, Tlp, violations

from .access import number_reader, writer
from .beats import BeatFormat
from .credits import Grants, PortCredits, Usage
from .fabric import Fabric
from .streams import TlpSink, TlpSource

__all__ = ["IllFormedTlp", "TlpPortAgent"]


class IllFormedTlp(AssertionError):
    """The hardware sent a TLP that no receiver has to accept."""


class TlpPortAgent:
    """Link partner of the port ``name`` of ``entity``.

    Sends what is queued, class by class, in an order that the ordering table allows and within the credits of the hardware's ``rx_limits``; receives
    what the hardware sends, checks it, and hands it to :attr:`on_tlp`. The receiver of a TLP must :meth:`release` it, or ``auto_release`` does.

    *Parameters*: ``granted``, the credits of the hardware; ``mps`` and ``rcb``, the limits that its TLPs must keep; ``shuffle``, the probability
    that a class that may go first does, although another waited longer; ``source_pause`` and ``sink_pause``, asked once a beat, which hold a
    stream for a cycle.

    *Members*: ``on_tlp(tlp)`` is called for each received TLP, ``on_sent(tlp)`` when the first beat of a sent one is put on the wire.
    ``sent`` and ``received`` count TLPs, ``sent_bytes`` and ``received_bytes`` their payload, ``sent_beats`` and ``received_beats`` the cycles
    that they took on the wire. ``id_ordering``, off at first: requests and completions with IDO go before posted TLPs of other requesters.
    """

    def __init__(self, entity: Any, name: str, fabric: Fabric, beats: BeatFormat, granted: PortCredits | None = None, *, mps: int = 256,
                 rcb: int = 64, seed: int = 0, shuffle: float = 0.0, auto_release: bool = True,
                 source_pause: Callable[[], bool] | None = None, sink_pause: Callable[[], bool] | None = None) -> None:
        self.name = name
        self.fabric = fabric
        self.mps = mps
        self.rcb = rcb
        self.random = Random(seed)
        self.shuffle = shuffle
        self.auto_release = auto_release
        self.id_ordering = False
        self.on_tlp: Callable[[Tlp], None] | None = None
        self.on_sent: Callable[[Tlp], None] | None = None
        self.sent = self.received = self.sent_bytes = self.received_bytes = self.sent_beats = self.received_beats = 0
        self._beat_bytes = beats.data_bytes
        self._queues: tuple[deque[tuple[int, Tlp, Event | None]], ...] = (deque(), deque(), deque())
        self._stamp = 0
        self._read_limits = number_reader(getattr(entity, f"{name}__rx_limits"))
        self.usage = Usage(f"{name} rx")
        self.grants = Grants(f"{name} tx", granted or PortCredits(), fabric, self.random, writer(getattr(entity, f"{name}__tx_limits")))
        # The sink stands first: what arrives may be answered at the same edge.
        self.sink = TlpSink(entity, f"{name}__tx", fabric, beats, sink_pause)
        self.source = TlpSource(entity, f"{name}__rx", fabric, beats, source_pause)
        self.source.pull = self._pull
        self.sink.add_callback(self._received)

    # Sending

    def queue(self, tlp: Tlp) -> None:
        """Queue ``tlp`` behind those of its class."""
        self._queue(tlp, None)

    async def send(self, tlp: Tlp) -> None:
        """Queue ``tlp`` and wait until its first beat is on the wire."""
        sent = Event()
        self._queue(tlp, sent)
        await sent.wait()

    def _queue(self, tlp: Tlp, sent: Event | None) -> None:
        self._stamp += 1
        self._queues[tlp.flow].append((self._stamp, tlp, sent))
        if not self.source.waiting:
            # The source is asked as long as it waits, so a TLP more changes nothing then.
            self.source.wake()

    def waiting(self, flow: FlowClass) -> int:
        """TLPs of one class that wait to be sent."""
        return len(self._queues[flow])

    @property
    def queued(self) -> int:
        """TLPs that wait to be sent."""
        return len(self._queues[0]) + len(self._queues[1]) + len(self._queues[2])

    @property
    def idle(self) -> bool:
        """Nothing is queued, on the wire, or half received, and all credits are granted again."""
        return not self.queued and self.source.idle and self.sink.idle and self.grants.settled

    def unreturned(self) -> list[str]:
        """Credits, header/data by class, that the hardware has not granted again although it was sent nothing more."""
        return self.usage.missing(self._read_limits())

    def _pull(self) -> Tlp | None:
        """Choose the next TLP: the oldest that the ordering table and the credits allow, or a younger one of another class."""
        posted, non_posted, completion = self._queues
        candidates = []
        oldest_posted = posted[0][0] if posted else self._stamp + 1
        if posted:
            candidates.append(posted)
        if non_posted and (non_posted[0][0] < oldest_posted or self._unrelated(non_posted[0])):
            candidates.append(non_posted)
        # A completion with RO may pass posted TLPs; without it, it may not.
        if completion and (completion[0][0] < oldest_posted or completion[0][1].relaxed_ordering or self._unrelated(completion[0])):
            candidates.append(completion)
        if not candidates:
            self.source.waiting = False
            return None
        if len(candidates) > 1:
            candidates.sort(key=lambda queue: queue[0][0])
            if self.shuffle and self.random.random() < self.shuffle:
                self.random.shuffle(candidates)
        for fresh in (False, True):
            if fresh:
                self.usage.update(self._read_limits())
            for queue in candidates:
                if self.usage.allows(queue[0][1]):
                    return self._take(queue)
        self.source.waiting = True
        return None

    def _unrelated(self, waiting: tuple[int, Tlp, Event | None]) -> bool:
        """IDO lets this one pass all posted TLPs that are older."""
        stamp, tlp, _ = waiting
        if not self.id_ordering or not tlp.id_ordering:
            return False
        agent = tlp.completer_id if tlp.is_completion else tlp.requester_id
        return not any(other < stamp and posted.requester_id == agent for other, posted, _ in self._queues[FlowClass.POSTED])

    def _take(self, queue: deque[tuple[int, Tlp, Event | None]]) -> Tlp:
        _, tlp, sent = queue.popleft()
        self.source.waiting = False
        self.usage.consume(tlp)
        self.sent += 1
        self.sent_bytes += len(tlp.data)
        self.sent_beats += -(-len(tlp.data) // self._beat_bytes) or 1
        if sent is not None:
            sent.set()
        if self.on_sent is not None:
            self.on_sent(tlp)
        return tlp

    # Receiving

    def _received(self, tlp: Tlp) -> None:
        self.received += 1
        self.received_bytes += len(tlp.data)
        self.received_beats += -(-len(tlp.data) // self._beat_bytes) or 1
        self.grants.arrived(tlp)
        found = violations(tlp, self.mps, 4096, self.rcb)
        if found:
            raise IllFormedTlp(f"{self.name} sent an ill-formed TLP, {tlp}: {'; '.join(found)}")
        if self.on_tlp is not None:
            self.on_tlp(tlp)
        if self.auto_release:
            self.grants.release(tlp)

    def release(self, tlp: Tlp) -> None:
        """The room that a received TLP took is free again."""
        self.grants.release(tlp)

    def starve(self, *flows: FlowClass) -> None:
        """Grant no further credits to these classes until :meth:`feed`."""
        for flow in flows:
            self.grants.starve(flow)

    def feed(self, *flows: FlowClass) -> None:
        """End the starvation of these classes."""
        for flow in flows:
            self.grants.feed(flow)
