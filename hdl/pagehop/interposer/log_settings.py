"""What the dirty log is told and tells, each declared once."""

from amaranth.lib import data, enum

from pagehop.iommu.layouts import PPN_BITS

__all__ = ["BITMAPS", "RANGES", "UNIT_BITS", "WORD_BITS", "DirtyUnits", "LogError", "LogRange", "LogRoot", "LogSettings", "LogStatus", "LogWord"]

#: Ranges of addresses that are logged, and bitmaps that each has.
RANGES, BITMAPS = 4, 2

#: Base-2 logarithm of the smallest unit that has a bit, and bits of a word of a bitmap.
UNIT_BITS, WORD_BITS = 11, 64


class LogError(enum.Enum, shape=3):
    """Why everything counts as dirty."""
    NONE    = 0
    ANSWER  = 1   # not the answer that was asked for
    TIMEOUT = 2
    OPAQUE  = 3
    DOWN    = 4
    CHANGED = 5
    FLUSH   = 6
    TABLES  = 7   # a page has no entry to mark, units are not pages, or nothing here can walk


class LogRange(data.Struct):
    """``pages`` pages of 4 KiB from ``base`` on, of which 2 to the power of ``shift`` bytes, 11 to 21, have a bit in the bitmaps at ``bitmap``."""
    base:   52
    pages:  32
    shift:  5
    bitmap: data.ArrayLayout(64, BITMAPS)


class LogRoot(data.Struct):
    """The root of page tables: number of its page in the memory of the log's host; ``deep``: there are four levels below each other, not three."""
    ppn:  PPN_BITS
    deep: 1


class LogSettings(data.Struct):
    """What the registers say. ``host`` has the bitmaps. ``ping_pong``: it takes no atomics, and who writes a bitmap takes turns. ``tables``: there
    are no bitmaps, but the page tables of ``root`` at that host."""
    ranges:    data.ArrayLayout(LogRange, RANGES)
    enable:    1
    host:      1
    ping_pong: 1
    tables:    1
    root:      LogRoot


class LogStatus(data.Struct):
    """``busy``: a sync runs. ``active``: the bitmap that the interposer writes. ``error``, but NONE: everything is dirty. ``requests``: sent to the
    host, writes included; ``waits``: cycles in which writes of the device waited for the log; both modulo. ``tables``: page tables can be marked."""
    busy:     1
    active:   1
    error:    LogError
    requests: 32
    waits:    32
    tables:   1


class LogWord(data.Struct):
    """Word ``word`` of the bitmap of a range."""
    range: range(RANGES)
    word:  27


class DirtyUnits(data.Struct):
    """A unit that was written: a ``bit`` of a word. ``pair``: so was the next, which is in the same word."""
    place: LogWord
    bit:   range(WORD_BITS)
    pair:  1
