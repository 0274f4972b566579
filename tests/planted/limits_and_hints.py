"""Bugs of what is changed of TLPs as they leave: pieces, and hints that are stripped."""

from typing import Any

from tests.planted.bug import Bug, with_egress

from pagehop.tlp.cutter import Cutter, cutting_of
from pagehop_sim.planted import edited

__all__ = ["LIMITS_AND_HINTS"]


def with_cutter(*changes: tuple[str, str]) -> Any:
    """An Interposer whose cutters are changed."""
    return with_egress(Cutter=edited(Cutter, *changes))


def pieces_at_one_address() -> Any:
    """All pieces of a write have its address."""
    return with_cutter(("kept[name][7:12] + most[5:]", "kept[name][7:12] + Mux(planted_here, 0, most[5:])"))


def last_enables_on_every_piece() -> Any:
    """Every piece of a write has the last byte enables of the whole."""
    return with_cutter(("now.last_be.eq(Mux(single, 0, 0xF))", "now.last_be.eq(Mux(single, 0, Mux(planted_here, whole.last_be, 0xF)))"))


def only_the_first_piece_poisoned() -> Any:
    """The pieces after the first look like good data."""
    return with_cutter(("m.d.sync += kept.eq(whole)\n", "m.d.sync += [kept.eq(whole), kept.poisoned.eq(whole.poisoned & ~planted_here)]\n"),
                       ("beat.poisoned | poisoned", "(beat.poisoned | poisoned) & ~(planted_here & cutting)"))


def only_the_first_piece_has_the_prefix() -> Any:
    """The pieces after the first have lost their PASID."""
    return with_cutter(("begins & prefix_valid", "begins & prefix_valid & ~planted_here"),
                       ("Mux(begins, prefix, 0)", "Mux(begins & ~planted_here, prefix, 0)"))


def byte_count_of_the_whole() -> Any:
    """Each piece of a completion says that all of it is still to come."""
    return with_cutter(("kept.byte_count + kept.lower_address - (most << 2)",
                        "kept.byte_count + Mux(planted_here, 0, kept.lower_address - (most << 2))"))


def pieces_end_anywhere() -> Any:
    """Pieces are counted from the beginning of the TLP, not from the last boundary."""
    counted = edited(cutting_of, ("0), _place(header)", "0), Mux(planted_here, 0, _place(header))"))
    return with_egress(cutting_of=counted, Cutter=edited(Cutter, ("_place(beat.header)", "Mux(planted_here, 0, _place(beat.header))")))


def first_piece_counts_as_all() -> Any:
    """A posted TLP counts as sent with its first beat, so what came after it may go between its pieces."""
    return with_egress((
        "whole.ready & whole.payload.beat.last", "whole.ready & Mux(planted_here, whole.payload.beat.first, whole.payload.beat.last)"))


def steering_tags_kept() -> Any:
    """Requests leave with the steering tags of another host."""
    return with_egress(("with m.If(self.strip_hints):", "with m.If(self.strip_hints & ~planted_here):"))


def steering_prefix_kept() -> Any:
    """Only half of a long steering tag is stripped."""
    return with_egress(("prefix[24:] == headers.HINT_PREFIX", "prefix[24:] == Mux(planted_here, 0, headers.HINT_PREFIX)"))


TLPS, WRONG = {"requests": 200}, "came out instead of"

LIMITS_AND_HINTS = (
    Bug("pieces_at_one_address", ("H24c", "I3"), pieces_at_one_address, "hot_page", {"moves": 1, "mps": [256, 256, 128], "line": 256, "gap": 100},
        "invented"),
    Bug("last_enables_on_every_piece", ("H24c", "I10"), last_enables_on_every_piece, "passthrough", TLPS, WRONG),
    Bug("only_the_first_piece_poisoned", ("H24c", "I9"), only_the_first_piece_poisoned, "passthrough", TLPS, WRONG),
    Bug("only_the_first_piece_has_the_prefix", ("H24c", "I10"), only_the_first_piece_has_the_prefix, "passthrough", TLPS, WRONG),
    Bug("byte_count_of_the_whole", ("H24c",), byte_count_of_the_whole, "passthrough", TLPS, WRONG),
    Bug("pieces_end_anywhere", ("H24c",), pieces_end_anywhere, "passthrough", TLPS, WRONG),
    Bug("first_piece_counts_as_all", ("H24c", "O3"), first_piece_counts_as_all, "passthrough", {"requests": 600}, "passed a posted TLP", seeds=4),
    Bug("steering_tags_kept", ("H24c",), steering_tags_kept, "passthrough", TLPS, WRONG),
    Bug("steering_prefix_kept", ("H24c",), steering_prefix_kept, "passthrough", TLPS, WRONG),
)
