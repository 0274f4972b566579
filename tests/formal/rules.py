"""What the claims share: free inputs, and rules written once that are assumed of an input and asserted of an output."""

from collections.abc import Callable

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assume, Module, Signal, Value

__all__ = ["any_constant", "any_value", "drive", "held", "framed", "past"]


def any_value(m: Module, shape: object, name: str) -> Signal:
    """A signal that takes any value in every cycle."""
    signal = Signal(shape, name=name)
    m.d.comb += signal.eq(AnySeq(len(Value.cast(signal))))
    return signal


def any_constant(m: Module, shape: object, name: str) -> Signal:
    """A signal that has any value and keeps it."""
    signal = Signal(shape, name=name)
    m.d.comb += signal.eq(AnyConst(len(Value.cast(signal))))
    return signal


def drive(m: Module, stream: object, name: str) -> None:
    """Drive an input stream with anything that keeps the stream rules."""
    m.d.comb += [stream.valid.eq(AnySeq(1)), Value.cast(stream.payload).eq(AnySeq(len(Value.cast(stream.payload))))]
    held(m, stream, Assume, name)


def past(m: Module, value: object, name: str) -> Signal:
    """``value`` one cycle ago; 0 in the first cycle. Call it outside of conditions, which would hold the delay too."""
    delayed = Signal(len(Value.cast(value)), name=f"{name}_past")
    m.d.sync += delayed.eq(Value.cast(value))
    return delayed


def held(m: Module, stream: object, claim: Callable, name: str) -> None:
    """``valid`` and ``payload`` stay until the transfer."""
    waited = past(m, stream.valid & ~stream.ready, f"{name}_waited")
    before = past(m, stream.payload, f"{name}_payload")
    with m.If(waited):
        m.d.comb += [claim(stream.valid), claim(Value.cast(stream.payload) == before)]


def framed(m: Module, stream: object, beat: object, claim: Callable, name: str) -> Signal:
    """``first`` stands where a TLP begins and nowhere else. Returns "a TLP has begun and not ended"."""
    inside = Signal(name=f"{name}_inside")
    with m.If(stream.valid):
        m.d.comb += claim(beat.first == ~inside)
    with m.If(stream.valid & stream.ready):
        m.d.sync += inside.eq(~beat.last)
    return inside
