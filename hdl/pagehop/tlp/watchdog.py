"""The watchdog of a way out: when its partner takes nothing, what goes there is discarded (H65, D12)."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["PortState", "PortWatch", "Watchdog"]


class PortWatch(data.Struct):
    """What a watchdog is told: its ``limit`` in cycles, 0 for never; pulses, ``stop`` sending now, and ``resume``."""
    limit:  32
    stop:   1
    resume: 1


class PortState(data.Struct):
    """``down``: what goes to this port is discarded. ``expired``: the limit was the reason, at least once since ``resume``."""
    down:    1
    expired: 1


class Watchdog(wiring.Component):
    """Say when an egress discards in place of sending, and let it change over between two TLPs.

    The limit counts for each lane on its own: a partner that takes posted TLPs for ever and no request is as dead for who waits for a request. A
    head that stands still is given ``limit`` cycles at least, and twice as many (and 5) at most. Up again is for software alone: who lost TLPs has
    to know.

    The egress begins no TLP in the cycle after ``closed``, and what has begun then ends as it began: sent, or discarded. ``discards`` changes only
    when nothing has begun.

    Parameters
    ----------
    lanes : heads that may wait.

    Members
    -------
    watch, state : see :class:`PortWatch` and :class:`PortState`.
    waits : a bit a lane: in the cycle before a head stood still that only the partner could keep from leaving.
    begun : a TLP has begun to leave and not ended.
    closed, discards : registers.
    """
    def __init__(self, lanes):
        self.lanes = lanes
        super().__init__({
            "watch": In(PortWatch), "state": Out(PortState), "waits": In(lanes), "begun": In(1), "closed": Out(1), "discards": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        down, changes, settled, switches = Signal(), Signal(), Signal(), Signal()
        expires = self._expires(m, down | self.discards)
        with m.If(self.watch.resume):
            m.d.sync += [down.eq(0), self.state.expired.eq(0)]
        with m.If(expires):
            m.d.sync += self.state.expired.eq(1)
        with m.If(expires | self.watch.stop):
            m.d.sync += down.eq(1)
        # A TLP may begin in the first cycle of `closed`, and shows in the second.
        m.d.comb += [changes.eq(down != self.discards), switches.eq(changes & settled & ~self.begun), self.state.down.eq(self.discards)]
        m.d.sync += [self.closed.eq(changes & ~switches), settled.eq(self.closed & changes & ~switches)]
        with m.If(switches):
            m.d.sync += self.discards.eq(down)
        return m

    def _expires(self, m, down):
        """1 when a head has seen two ticks in one place, so a whole ``limit`` between them."""
        timer, tick, enabled = Signal(32), Signal(), Signal()
        still, expires = Signal(self.lanes), Signal()
        m.d.sync += [
            enabled.eq(self.watch.limit.any()), timer.eq(timer + 1), tick.eq(enabled & (timer >= self.watch.limit)),
            still.eq(Mux(down, 0, self.waits & (still | tick.replicate(self.lanes)))),
        ]
        with m.If(tick):
            m.d.sync += [timer.eq(0), tick.eq(0)]
        m.d.comb += expires.eq(tick & (still & self.waits).any() & ~down)
        return expires
