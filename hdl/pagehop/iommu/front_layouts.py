"""What travels between the parts of the TLP side of the IOMMU, each declared once."""

from amaranth.lib import data, enum

from pagehop.iommu.layouts import Translation
from pagehop.tlp.stream import TlpBeat

__all__ = ["LANES", "Kind", "Route", "Wanted", "Decision", "FrontBeat", "Prefix"]

#: Lanes of an ordering queue of the front, numbered as those of the egress (:class:`EgressLane`).
LANES = 3


class Kind(enum.Enum, shape=3):
    """What is done with a TLP of the device: passed on, translated, asked about, answered with a translation, taken out, or refused."""
    PASS         = 0
    UNTRANSLATED = 1
    TRANSLATED   = 2
    ATS_REQUEST  = 3
    MESSAGE      = 4
    REFUSE       = 5


class Route(enum.Enum, shape=3):
    """Where a TLP goes: on, to the refusals, to the translation completions, to who takes its message, or nowhere."""
    ONWARD  = 0
    REFUSED = 1
    ENTRY   = 2
    MESSAGE = 3
    DROPPED = 4


class Prefix(data.Struct):
    """A PASID prefix (6.20.2)."""
    process:    20
    reserved:   2
    execute:    1
    privileged: 1
    kind:       8


class Wanted(data.Struct):
    """What the translator must know of a TLP. ``address`` is in double words."""
    kind:          Kind
    posted:        1
    writes:        1
    no_write:      1
    process_valid: 1
    process:       20
    privileged:    1
    device_id:     16
    address:       62


class Decision(data.Struct):
    """What is done with a TLP. ``rewrites``: its page becomes ``translation.ppn``, which is above 4 GB when ``wide``. ``aborts``: refused by CA."""
    route:       Route
    aborts:      1
    rewrites:    1
    wide:        1
    translation: Translation


class FrontBeat(data.StructLayout):
    """A beat that has been chosen, the lane it came from, and where it goes."""
    def __init__(self, data_bytes):
        super().__init__({"beat": TlpBeat(data_bytes), "lane": 2, "route": Route, "aborts": 1, "translation": Translation})
