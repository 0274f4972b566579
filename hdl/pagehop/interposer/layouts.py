"""What travels between the parts of the interposer, each declared once."""

from amaranth.hdl import Cat, Mux, Value
from amaranth.lib import data

from pagehop.tlp.flush import FLUSH_SEQUENCE_BITS
from pagehop.tlp.headers import CREDIT_BYTES, RequestHeader
from pagehop.tlp.stream import TlpBeat

__all__ = [
    "HOST_A", "HOST_B", "PAGE_BITS", "Destination", "Settings", "Range", "PortConfig", "Guard", "FlushView", "Aperture",
    "DeviceInfo", "HostInfo", "Issued", "lane_credits",
]

HOST_A, HOST_B = 0, 1

#: Base-2 logarithm of the page size.
PAGE_BITS = 12


class Destination:
    """Where a TLP of a host goes. Towards the hosts the destination is the host itself, 0 or 1."""
    DEVICE = 0
    OTHER  = 1
    LOCAL  = 2
    DROP   = 3


class Range(data.Struct):
    """Pages ``base`` to ``limit`` - 1 of an address space, as page numbers. Empty when ``limit`` is not above ``base``."""
    base:  52
    limit: 53

    def holds(self, address):
        """1 when the 64-bit byte ``address`` lies in the range."""
        page = address[PAGE_BITS:]
        return (page >= self.base) & (page < self.limit)

    def holds_address_of(self, header):
        """1 when the address of a memory or atomic request does. Both forms of the header are compared, and the form then chooses: it is shorter."""
        fields = data.View(RequestHeader(), Value.cast(header))
        narrow, wide = fields.dw2[PAGE_BITS:], Cat(fields.dw3[PAGE_BITS:], fields.dw2)
        holds = [(page >= self.base) & (page < self.limit) for page in (narrow, wide)]
        return Mux(fields.fmt[0], holds[1], holds[0])


class Aperture(data.Struct):
    """A range of one host's addresses that leads to the other host, ``offset`` (bytes) being added."""
    range:  Range
    offset: 64


class Settings(data.Struct):
    """What the registers say, ready to compare with."""
    window:        Range
    msi:           Range
    mmio:          Range
    host_b_offset: 64
    aperture_a:    Aperture
    aperture_b:    Aperture
    active_host:   1
    fence:         1
    track_dirty:   1


class PortConfig(data.Struct):
    """What the link of a port knows of itself: our requester ID there and, at a host, where our registers stand."""
    requester_id:  16
    register_base: 64


class Guard(data.StructLayout):
    """What the page slot tells the gates.

    ``active``: ``page`` (of the window) is moving. ``closed``: nothing that touches it may pass. ``committed``: its owner is ``to_host``, whatever
    a look-up
    from before says.
    """
    def __init__(self, window_pages):
        super().__init__({"page": range(window_pages), "active": 1, "closed": 1, "committed": 1, "to_host": 1})


class FlushView(data.Struct):
    """What others see of the flush tracker of one host; the fields are ports of :class:`FlushTracker`."""
    issued: FLUSH_SEQUENCE_BITS
    done:   FLUSH_SEQUENCE_BITS
    newest: FLUSH_SEQUENCE_BITS
    dirty:  1
    clean:  1


class DeviceInfo(data.StructLayout):
    """What is known of a TLP of the device when it has been decoded.

    ``last_completion``: it ends its request. ``needs_proof``: it is ordered behind every earlier posted write, at whatever host (all but RO posted).
    """
    def __init__(self, window_pages):
        super().__init__({
            "page": range(window_pages), "in_window": 1, "changes_memory": 1, "last_completion": 1, "needs_proof": 1,
        })


class HostInfo(data.Struct):
    """What is known of a TLP of a host when it has been decoded."""
    destination:     2
    last_completion: 1


class Issued(data.StructLayout):
    """A beat in the issue register of an ingress: where it goes, and what is to be noted when it is accepted there."""
    def __init__(self, data_bytes):
        super().__init__({
            "beat": TlpBeat(data_bytes), "lane": 2, "destination": 2, "to_memory": 1,
            "non_posted": 1, "atomic": 1, "lines": 7,
        })


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
