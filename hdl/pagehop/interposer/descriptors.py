"""What a move queue reads and writes in a host's memory, each declared once. Little-endian, as a host's stores leave it."""

from amaranth.lib import data

from pagehop.interposer.move_check import MoveError

__all__ = ["DESCRIPTOR_BYTES", "INDEX_BITS", "RECORD_BYTES", "MoveDescriptor", "MoveRecord", "QueueSettings", "QueueState", "ring_address"]

#: Bits of the numbers that count descriptors, modulo.
INDEX_BITS = 16

DESCRIPTOR_BYTES, RECORD_BYTES = 32, 16


class MoveDescriptor(data.Struct):
    """One move that software asks for. ``mode``, ``to_host`` and ``page_size`` stand where ``move_command`` has them; the rest is software's own."""
    source:      64
    destination: 64
    unused_0:    4
    mode:        2
    unused_6:    2
    to_host:     1
    unused_9:    7
    page_size:   8
    unused_24:   40


class MoveRecord(data.Struct):
    """How the move of a descriptor ended. ``done``, ``failed`` and ``error`` stand where ``move_status`` has them.

    ``turn`` is 1 when ring and records are gone through for the first time, 0 the second time, and so on, so a record is told from what stood there.
    """
    unused_0:  1
    done:      1
    failed:    1
    unused_3:  5
    error:     MoveError
    unused_12: 3
    turn:      1
    index:     INDEX_BITS
    slot:      3
    unused_35: 29
    hold:      32
    total:     32


class QueueSettings(data.Struct):
    """What the registers say of a move queue: of a ring of 2 to the power of ``order`` descriptors. ``slots``: a bit for each of its own."""
    base:    64
    records: 64
    tail:    INDEX_BITS
    slots:   8
    order:   4
    host:    1
    enable:  1


class QueueState(data.Struct):
    """What a move queue tells: descriptors ``taken`` by slots, records ``done``, slots ``running`` its moves, nothing of it on its way."""
    taken:   INDEX_BITS
    done:    INDEX_BITS
    running: 8
    idle:    1
    error:   1


def ring_address(base, index, order, entry_bytes):
    """Byte address of the entry of descriptor ``index`` in a ring of 2 to the power of ``order`` entries at ``base``."""
    place = index & ((1 << order) - 1)
    return (base + place * entry_bytes)[:64]
