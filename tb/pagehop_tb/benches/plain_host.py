"""A host that answers every request after the same number of cycles: what is measured against it is the hardware's own."""

from collections.abc import Callable
from functools import partial

from cocotb.triggers import Event

from pagehop_tb.pins import Fabric, TlpPortAgent
from pagehop_tb.protocol import Kind, Tlp, expand_byte_enables, memory_read, memory_write, read_completions, request_bytes

__all__ = ["PlainHost"]

CPU = 0x0000
PAGE = 4096


class PlainHost:
    """Memory behind a port: writes are visible on arrival, reads answered ``delay`` cycles after theirs, in completions of ``mps`` bytes.

    It is also the register access of a driver (:class:`pagehop_tb.driver.api.RegisterAccess`) at ``register_base``, one access at a time.
    ``on_read(tlp)`` is called for each read that arrives, ``on_answered(tlp)`` when the first beat of a completion is on the wire.
    """

    def __init__(self, agent: TlpPortAgent, fabric: Fabric, register_base: int, delay: int, mps: int = 256) -> None:
        self.agent, self.fabric, self.register_base, self.delay, self.mps = agent, fabric, register_base, delay, mps
        self.pages: dict[int, bytearray] = {}
        self.written = 0
        self.on_read: Callable[[Tlp], None] | None = None
        self.on_write: Callable[[Tlp], None] | None = None
        self._answer: Tlp | None = None
        self._answered = Event()
        agent.on_tlp = self._arrived

    def page(self, address: int) -> bytearray:
        """The page that contains ``address``."""
        return self.pages.setdefault(address // PAGE, bytearray(PAGE))

    def _arrived(self, tlp: Tlp) -> None:
        if tlp.kind is Kind.MWR:
            self._write(tlp)
        elif tlp.kind is Kind.MRD:
            if self.on_read is not None:
                self.on_read(tlp)
            self.fabric.after(self.delay, partial(self._read, tlp))
        elif tlp.is_completion:
            self._answer = tlp
            self._answered.set()
        else:
            raise AssertionError(f"a plain host cannot do {tlp}")

    def _write(self, tlp: Tlp) -> None:
        page, offset, enables = self.page(tlp.address), tlp.address % PAGE, expand_byte_enables(tlp)
        if enables is None:
            page[offset:offset + len(tlp.data)] = tlp.data
        else:
            for i, byte in enumerate(tlp.data):
                if enables >> i & 1:
                    page[offset + i] = byte
        self.written += 1
        if self.on_write is not None:
            self.on_write(tlp)

    def _read(self, tlp: Tlp) -> None:
        start, _ = request_bytes(tlp)
        offset = start // 4 * 4 % PAGE
        for completion in read_completions(tlp, bytes(self.page(start)[offset:offset + 4 * tlp.length]), CPU, 64, self.mps):
            self.agent.queue(completion)

    # Registers

    async def read(self, offset: int, size: int = 8) -> int:
        """Read a register."""
        self._answered.clear()
        self.agent.queue(memory_read(CPU, self.register_base + offset, size, 1))
        await self._answered.wait()
        assert self._answer is not None and self._answer.status == 0, f"register {offset:#x}: {self._answer}"
        return int.from_bytes(self._answer.data[:size], "little")

    async def write(self, offset: int, value: int, size: int = 8) -> None:
        """Write a register."""
        self.agent.queue(memory_write(CPU, self.register_base + offset, value.to_bytes(size, "little")))
