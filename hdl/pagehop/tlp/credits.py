"""Credit counters: what the partner lets us send, and what we let it send."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp.headers import CREDIT_BYTES, TlpClass, credits_of_dwords
from pagehop.tlp.stream import ClassCredits, CreditLimits

__all__ = ["CreditGate", "CreditReturn", "lane_credits", "return_credits"]

_CLASS_NAMES = {TlpClass.POSTED: "posted", TlpClass.NON_POSTED: "non_posted", TlpClass.COMPLETION: "completion"}


class CreditGate(wiring.Component):
    """Count the credits spent of each class and compare them with the partner's limits (2.6.1.2).

    Limits are registered on the way in. What both say holds in the *next* cycle. ``plenty``: there are credits for two of the largest TLPs, so one
    TLP a cycle may go without a look at its size. :meth:`fits`: one TLP of this size may go.

    Parameters
    ----------
    max_payload : largest payload in bytes.

    Members
    -------
    limits : the partner's limits.
    spend : for each class (indexed by :class:`TlpClass`), a TLP is sent. ``spend_data``: its data credits.
    plenty : for each class.
    """
    def __init__(self, max_payload=256):
        self.max_units = -(-max_payload // CREDIT_BYTES)
        super().__init__({
            "limits": In(CreditLimits), "spend": In(1).array(3), "spend_data": In(9).array(3), "plenty": Out(1).array(3),
        })
        self._left = [Signal(data.StructLayout({"data": 12, "header": 8, "infinite": 1}), name=f"left_{name}") for name in _CLASS_NAMES.values()]

    def elaborate(self, platform):
        m = Module()
        limits = Signal(CreditLimits)
        m.d.sync += limits.eq(self.limits)
        for kind, name in _CLASS_NAMES.items():
            limit, left = limits[name], self._left[kind.value]
            spent_header, spent_data = Signal(8, name=f"{name}_header"), Signal(12, name=f"{name}_data")
            with m.If(self.spend[kind.value]):
                m.d.sync += [spent_header.eq(spent_header + 1), spent_data.eq(spent_data + self.spend_data[kind.value])]
            m.d.comb += [left.data.eq(limit.data - spent_data), left.header.eq(limit.header - spent_header), left.infinite.eq(limit.infinite)]
            # One TLP may be sent in this cycle and one in the next before this counts again.
            m.d.comb += self.plenty[kind.value].eq(left.infinite | ((left.header >= 2) & (left.data >= 2 * self.max_units)))
        return m

    def fits(self, kind, units):
        """1 when a TLP of class ``kind`` with ``units`` data credits, or the number 0 when it never has data, may be sent in the next cycle."""
        left = self._left[kind.value]
        enough = Const(1) if isinstance(units, int) else left.data >= units
        # What is sent in this cycle is not subtracted yet.
        return ~self.spend[kind.value] & (left.header != 0) & enough


class CreditReturn(wiring.Component):
    """Raise the limits of one class as beats leave its lane.

    Starts at ``headers`` and ``data_credits`` and grows by one header credit a TLP and one data credit per 16 bytes of each beat. The sum
    over the beats of a TLP is what PCIe counts for it, since only the last beat can be partly filled.

    Members
    -------
    left : for each of ``lanes`` lanes, a beat left. ``first``, ``dwords``: of that beat.
    limit : to the partner; registered, counts a beat two cycles after it left.
    """
    def __init__(self, lanes, headers, data_credits, *, infinite=False):
        if not infinite and not (0 < headers < 128 and 0 < data_credits < 2048):
            raise ValueError(f"Credits must be 1 to 127 headers and 1 to 2047 data units, not {headers!r} and {data_credits!r}")
        self.lanes, self.headers, self.data_credits, self.infinite = lanes, headers, data_credits, infinite
        super().__init__({
            "left": In(1).array(lanes), "first": In(1).array(lanes), "dwords": In(6).array(lanes),
            "limit": Out(ClassCredits),
        })

    def elaborate(self, platform):
        m = Module()
        if self.infinite:
            m.d.comb += self.limit.infinite.eq(1)
            return m
        header, units = Signal(8, init=self.headers), Signal(12, init=self.data_credits)
        # Whether a beat leaves is known late in a cycle, so it is counted in the next.
        tlps, beats = Signal(self.lanes), [Signal(4, name=f"units_{lane}") for lane in range(self.lanes)]
        m.d.sync += [
            tlps.eq(Cat(left & first for left, first in zip(self.left, self.first, strict=True))),
            *(beat.eq(credits_of_dwords(dwords) & left.replicate(4)) for beat, left, dwords in zip(beats, self.left, self.dwords, strict=True)),
            header.eq(header + sum(tlps)), units.eq(units + sum(beats)),
        ]
        m.d.comb += [self.limit.header.eq(header), self.limit.data.eq(units)]
        return m


def lane_credits(depth, data_bytes, max_payload):
    """Header and data credits (16 bytes each) that a lane of ``depth`` beats can always take.

    A TLP fills whole beats, so each may waste all but 16 bytes of its last one.
    """
    tlp_beats = max(1, max_payload // data_bytes)
    headers = min(127, depth // 2)
    units = min(2047, (depth - headers) * data_bytes // CREDIT_BYTES)
    if units < max_payload // CREDIT_BYTES:
        raise ValueError(f"A lane must hold more than {2 * tlp_beats} beats for {max_payload} byte payloads, not {depth}")
    return headers, units


def return_credits(m, queue, limits, classes, data_bytes, max_payload):
    """Raise ``limits`` of a sender as beats leave the lanes of an ordering queue.

    ``classes`` names the lanes that draw credits of each class; any one of them may get all that the class has. Non-posted requests carry at most two
    operands of 16 bytes. Completions have no limit: what they answer was sent when there was room for them.
    """
    for name, lanes in classes.items():
        count, units = lane_credits(min(queue.depths[lane] for lane in lanes), data_bytes, max_payload if name == "posted" else 32)
        returned = CreditReturn(len(lanes), count, units, infinite=name == "completion")
        m.submodules[f"{name}_credits"] = returned
        m.d.comb += limits[name].eq(returned.limit)
        for number, lane in enumerate(lanes):
            head = queue.o[lane]
            m.d.comb += [
                returned.left[number].eq(head.valid & head.ready), returned.first[number].eq(head.payload.beat.first),
                returned.dwords[number].eq(head.payload.beat.dwords),
            ]
