"""The digest of a TLP: its end-to-end CRC (2.7.1)."""

import zlib

from .tlp import Tlp, encode

__all__ = ["digest_of"]

#: Bits of the first double word that switches may change, and that count as 1: bit 0 of Type, and EP.
VARIANT = 1 << 24 | 1 << 14


def digest_of(tlp: Tlp) -> bytes:
    """The four bytes behind the data, in the order of the wire. With its bit order that CRC is the usual one of 32 bits, low byte first."""
    header = (encode(tlp) | VARIANT << 96).to_bytes(16, "big")[:16 if tlp.four_dw else 12]
    prefix = b"" if tlp.prefix is None else tlp.prefix.to_bytes(4, "big")
    digest = zlib.crc32(prefix + header + tlp.data)
    return (digest ^ 0xFFFFFFFF if tlp.digest_wrong else digest).to_bytes(4, "little")
