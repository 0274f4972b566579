"""TLP streams, and the port of a link: two streams and the credits that pace them."""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["DATA_BYTES", "TlpBeat", "ClassCredits", "CreditLimits", "TlpPort", "check_data_bytes", "connect_streams"]

#: Beat widths the TLP layer is built for, in payload bytes.
DATA_BYTES = (16, 32, 64, 128)


def check_data_bytes(data_bytes):
    """Raise unless ``data_bytes`` is a beat width that the TLP layer supports."""
    if data_bytes not in DATA_BYTES:
        raise ValueError(f"Beat width must be one of {', '.join(map(str, DATA_BYTES))} bytes, not {data_bytes!r}")


class TlpBeat(data.StructLayout):
    """One beat of a TLP: up to ``data_bytes`` of payload, and with the first beat the header beside it.

    The payload starts at byte 0 of the first beat and fills every beat but the last. Widths in bits, least significant first:
    ``data`` 8 x data_bytes (``data[7:0]`` is the first payload byte), ``header`` 128, ``prefix`` 32, ``dwords`` 6 (valid double words
    in this beat, 0 without payload), ``first`` 1, ``last`` 1, ``prefix_valid`` 1, ``poisoned`` 1, ``digest_wrong`` 1. Header and prefix are 0 in
    later beats. ``digest_wrong`` is 0 at ports; inside it says, with the first beat, that the digest that this TLP gets must be wrong.
    """
    def __init__(self, data_bytes=64):
        check_data_bytes(data_bytes)
        self.data_bytes = data_bytes
        super().__init__({
            "data": 8 * data_bytes, "header": 128, "prefix": 32,
            "dwords": 6, "first": 1, "last": 1, "prefix_valid": 1, "poisoned": 1, "digest_wrong": 1,
        })


class ClassCredits(data.Struct):
    """Credits granted for one class since reset, counted as PCIe counts them (2.6.1.1): cumulative, modulo their width.

    ``header`` counts TLPs, ``data`` units of 16 bytes. What may be sent is ``limit - consumed``, modulo; at most half of either range is
    ever outstanding. ``infinite`` frees the class from both counts.
    """
    header:   8
    data:     12
    infinite: 1


class CreditLimits(data.Struct):
    """Credit limits of the three classes of one direction (63 bits, posted least significant)."""
    posted:     ClassCredits
    non_posted: ClassCredits
    completion: ClassCredits


class TlpPort(wiring.Signature):
    """One link: ``rx`` brings TLPs in under the credits in ``rx_limits``, ``tx`` takes them out under the partner's ``tx_limits``.

    ``rx.ready`` is a formality: a TLP within its credits is always taken. Limits may change in any cycle and only ever grow.
    """
    def __init__(self, data_bytes=64):
        beat = TlpBeat(data_bytes)
        super().__init__({
            "rx": In(stream.Signature(beat)), "rx_limits": Out(CreditLimits),
            "tx": Out(stream.Signature(beat)), "tx_limits": In(CreditLimits),
        })


def connect_streams(m, source, sink):
    """Connect two streams after comparing their payload shapes, which ``wiring.connect`` does not."""
    if source.payload.shape() != sink.payload.shape():
        raise TypeError(f"Streams must carry one payload shape, not {source.payload.shape()!r} and {sink.payload.shape()!r}")
    m.d.comb += [
        sink.valid.eq(source.valid),
        sink.payload.eq(source.payload),
        source.ready.eq(sink.ready),
    ]
