"""An aperture of the address adjuster, as its pins take it (``Aperture`` in hdl/pagehop/interposer/layouts.py)."""

__all__ = ["packed_aperture"]

PAGE = 4096
LIMIT_AT, OFFSET_AT = 52, 105


def packed_aperture(base: int, pages: int, offset: int) -> int:
    """The word that adds ``offset`` bytes to addresses in ``pages`` pages of 4 KB from ``base`` on."""
    first = base // PAGE
    return first | first + pages << LIMIT_AT | offset % (1 << 64) << OFFSET_AT
