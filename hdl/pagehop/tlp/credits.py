"""Credit counters: what the partner lets us send, and what we let it send."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp.headers import TlpClass, credits_of_dwords
from pagehop.tlp.stream import ClassCredits, CreditLimits

__all__ = ["CreditGate", "CreditReturn"]

_CLASS_NAMES = {TlpClass.POSTED: "posted", TlpClass.NON_POSTED: "non_posted", TlpClass.COMPLETION: "completion"}


class CreditGate(wiring.Component):
    """Count the credits spent of each class and compare them with the partner's limits (2.6.1.2).

    Limits are registered on the way in. A spend counts from the next cycle on, so one TLP a cycle can be spent.

    Members
    -------
    limits : the partner's limits.
    spend_header, spend_data : for each class (indexed by :class:`TlpClass`), a TLP was sent, and its data credits.
    available : for each class, data credits left (12 bits), and whether a header credit is (bit 12).
    """
    limits: In(CreditLimits)
    spend_header: In(1).array(3)
    spend_data: In(9).array(3)
    available: Out(data.StructLayout({"data": 12, "header": 1, "infinite": 1})).array(3)

    def elaborate(self, platform):
        m = Module()
        limits = Signal(CreditLimits)
        m.d.sync += limits.eq(self.limits)
        for kind, name in _CLASS_NAMES.items():
            limit, available = limits[name], self.available[kind.value]
            spent_header, spent_data = Signal(8, name=f"{name}_header"), Signal(12, name=f"{name}_data")
            with m.If(self.spend_header[kind.value]):
                m.d.sync += [
                    spent_header.eq(spent_header + 1),
                    spent_data.eq(spent_data + self.spend_data[kind.value]),
                ]
            m.d.comb += [
                available.data.eq(limit.data - spent_data),
                available.header.eq(limit.header != spent_header),
                available.infinite.eq(limit.infinite),
            ]
        return m

    def enough(self, kind, units):
        """1 when a TLP of class ``kind`` with ``units`` data credits may be sent."""
        available = self.available[kind.value]
        return available.infinite | (available.header & (available.data >= units))

    def spend(self, kind, units):
        """Assignments that spend a TLP of class ``kind``."""
        return [self.spend_header[kind.value].eq(1), self.spend_data[kind.value].eq(units)]


class CreditReturn(wiring.Component):
    """Raise the limits of one class as beats leave its lane.

    Starts at ``headers`` and ``data_credits`` and grows by one header credit a TLP and one data credit per 16 bytes of each beat. The sum
    over the beats of a TLP is what PCIe counts for it, since only the last beat can be partly filled.

    Members
    -------
    left : for each of ``lanes`` lanes, a beat left. ``first``, ``dwords``: of that beat.
    limit : to the partner; registered.
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
        m.d.sync += [
            header.eq(header + sum(left & first for left, first in zip(self.left, self.first, strict=True))),
            units.eq(units + sum(
                credits_of_dwords(dwords) & left.replicate(4) for left, dwords in zip(self.left, self.dwords, strict=True))),
        ]
        m.d.comb += [self.limit.header.eq(header), self.limit.data.eq(units)]
        return m
