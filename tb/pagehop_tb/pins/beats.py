"""A TLP as beats of a stream, and back.

A beat is one integer, laid out as the ports of the hardware are documented. Least significant first: data, header 128, prefix 32, dwords 6, first,
last, prefix_valid, poisoned, digest_wrong, which is 0. Where ports carry digests the one of a TLP with TD set stands behind its data.
"""

from pagehop_tb.protocol import Tlp, decode, digest_of, encode

__all__ = ["BeatError", "BeatFormat"]


class BeatError(AssertionError):
    """A stream broke a rule of its framing."""


class BeatFormat:
    """Packing of TLPs into beats of ``data_bytes``, with ``digests`` or, where TD is not allowed, without."""

    def __init__(self, data_bytes: int = 64, digests: bool = False) -> None:
        self.data_bytes, self.digests = data_bytes, digests
        self.bits = 8 * data_bytes + 128 + 32 + 6 + 5
        self._data_bits = 8 * data_bytes
        self._data_mask = (1 << self._data_bits) - 1
        base = self._data_bits + 160
        self._dwords_at = base
        self._first, self._last, self._prefix_valid, self._poisoned = (1 << base + bit for bit in (6, 7, 8, 9))
        self._full = self.data_bytes // 4 << base

    def pack(self, tlp: Tlp) -> list[int]:
        """Beats of ``tlp``, at least one."""
        data, width = tlp.data + digest_of(tlp) if tlp.digest else tlp.data, self.data_bytes
        size = len(data)
        common = self._poisoned if tlp.poisoned else 0
        head = encode(tlp) << self._data_bits | self._first | common
        if tlp.prefix is not None:
            head |= tlp.prefix << self._data_bits + 128 | self._prefix_valid
        if size <= width:
            return [head | int.from_bytes(data, "little") | size >> 2 << self._dwords_at | self._last]
        common |= self._full
        beats = [int.from_bytes(data[start:start + width], "little") | common for start in range(0, size - width, width)]
        beats[0] |= head
        tail = data[len(beats) * width:]
        beats.append(int.from_bytes(tail, "little") | len(tail) >> 2 << self._dwords_at | self._last | common & self._poisoned)
        return beats

    def unpack(self, beats: list[int]) -> Tlp:
        """TLP of its beats.

        Raises :class:`BeatError` when ``first``, ``last``, ``dwords`` or what must be 0 is wrong, :class:`MalformedTlp` for a header without meaning.
        """
        width, dwords_at = self.data_bytes, self._dwords_at
        head = beats[0]
        if not head & self._first:
            raise BeatError("the first beat of a TLP does not say first")
        flags = head >> dwords_at
        prefix = head >> self._data_bits + 128 & 0xFFFFFFFF
        if flags & 0x400:
            raise BeatError("digest_wrong at a port")
        if flags & 0x100:
            used: int | None = prefix
        elif prefix:
            raise BeatError("prefix without prefix_valid")
        else:
            used = None
        if len(beats) == 1:
            size = 4 * (flags & 0x3F)
            if size > width:
                raise BeatError(f"{size // 4} dwords in a beat of {width} bytes")
            data = (head & self._data_mask).to_bytes(width, "little")[:size] if size else b""
        else:
            data = self._join(beats)
        tlp = decode(head >> self._data_bits & (1 << 128) - 1, data, used)
        if tlp.digest:
            self._take_digest(tlp)
            data = tlp.data
        if len(data) != (4 * tlp.length if tlp.has_data else 0):
            raise BeatError(f"{len(data)} bytes in the beats of {tlp}")
        if flags & 0x200:
            tlp.poisoned = True
        return tlp

    def _take_digest(self, tlp: Tlp) -> None:
        if not self.digests:
            raise BeatError(f"TD is set where no digests are: {tlp}")
        tlp.data, digest = tlp.data[:-4], tlp.data[-4:]
        if digest != digest_of(tlp):
            tlp.digest_wrong = True
            if digest != digest_of(tlp):
                raise BeatError(f"the digest {digest.hex()} of {tlp} is neither right nor made wrong")

    def _join(self, beats: list[int]) -> bytes:
        width, mask, full = self.data_bytes, self._data_mask, self.data_bytes // 4
        for index, beat in enumerate(beats):
            flags = beat >> self._dwords_at
            if index and (flags & 0x540 or beat >> self._data_bits & (1 << 160) - 1):
                raise BeatError("first, header or prefix in a later beat")
            if index < len(beats) - 1 and flags & 0x3F != full:
                raise BeatError(f"a beat with {flags & 0x3F} dwords before the last")
        tail = 4 * (beats[-1] >> self._dwords_at & 0x3F)
        if not 0 < tail <= width:
            raise BeatError(f"{tail // 4} dwords in the last beat")
        return b"".join([(beat & mask).to_bytes(width, "little") for beat in beats])[:(len(beats) - 1) * width + tail]

    def is_last(self, beat: int) -> bool:
        """Whether ``beat`` ends its TLP."""
        return bool(beat & self._last)
