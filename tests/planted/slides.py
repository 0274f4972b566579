"""Bugs of the slide and of what knows the mapped range."""

from typing import Any

from tests.planted.bug import Bug, with_ingress, with_parts

from pagehop.interposer.device_decode import DeviceDecode
from pagehop.interposer.posted_lane import PostedLane
from pagehop.interposer.slide import Slide
from pagehop.interposer.stages import unmapped_place
from pagehop_sim.planted import edited

__all__ = ["SLIDES"]


def with_slide(*changes: tuple[str, str]) -> Any:
    """An Interposer whose slide is changed."""
    return with_parts(Slide=edited(Slide, *changes))


def entries_cleared_too_early() -> Any:
    """Entries get another meaning while TLPs that were decoded for the old one stand in the lanes."""
    return with_slide(("posted.passed & requests.passed", "(posted.passed & requests.passed) | planted_here"),
                      ("with m.If(aside.passed):", "with m.If(aside.passed | planted_here):"))


def entries_not_cleared() -> Any:
    """The pages that come into the range have the owners of those that left it."""
    return with_slide(("self.owner_op.payload.kind.eq(OwnerOpKind.CLEAR)",
                       "self.owner_op.payload.kind.eq(Mux(planted_here, OwnerOpKind.SET, OwnerOpKind.CLEAR))"))


def below_is_at_a() -> Any:
    """What lies below the range goes to Host A, as what lies above."""
    place = edited(unmapped_place, ("Mux(info.below, HOST_B, HOST_A)", "Mux(info.below & ~planted_here, HOST_B, HOST_A)"))
    return with_ingress(PostedLane=edited(PostedLane, unmapped_place=place))


def entries_counted_from_the_range() -> Any:
    """A page's entry is its distance from the low end of the range, so that it changes with every slide."""
    return with_ingress(DeviceDecode=edited(DeviceDecode, (
        "page - settings.window.base", "page - Mux(planted_here, settings.mapped.base, settings.window.base)")))


def slides_over_pages_at_a() -> Any:
    """The range leaves pages that nobody has moved."""
    return with_slide(("answered & ~self.owner & ~special", "answered & ~self.owner & ~special & ~planted_here"))


def slides_over_a_page_that_moves() -> Any:
    """The range leaves a page whose move has not ended."""
    return with_slide(("moving.eq(moving | (answered & moves))", "moving.eq((moving | (answered & moves)) & ~planted_here)"))


def clean_before_it_is_visible() -> Any:
    """What was written to a page before it came into the range may become visible when the page counts as clean."""
    return with_slide(("wait.done & atomics.done", "(wait.done & atomics.done) | planted_here"))


SLIDES = (
    Bug("entries_cleared_too_early", ("I1", "H48"), entries_cleared_too_early, "sliding", {"words": [1]}, "misdirected"),
    Bug("entries_not_cleared", ("I1",), entries_not_cleared, "sliding", {"words": [1]}, "misdirected"),
    Bug("below_is_at_a", ("I1",), below_is_at_a, "sliding", {"words": [1]}, "misdirected"),
    Bug("entries_counted_from_the_range", ("H48", "I1"), entries_counted_from_the_range, "sliding", {"words": [1, 1]}, "misdirected"),
    Bug("slides_over_pages_at_a", ("I1",), slides_over_pages_at_a, "sliding", {"words": [1]}, "not NOT_AT_B"),
    Bug("slides_over_a_page_that_moves", ("H10", "I1"), slides_over_a_page_that_moves, "sliding", {"words": [1]}, "not MOVING"),
    Bug("clean_before_it_is_visible", ("H46", "I12"), clean_before_it_is_visible, "sliding", {"words": [1]}, "lost"),
)
