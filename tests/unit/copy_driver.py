"""A driver of the copy engine, cycle by cycle, and the host that answers its reads."""

from pagehop.memory.copy_engine import CopyError
from pagehop_tb.simulate import seeded

SOURCE, DESTINATION = 0x0000_0000_7654_3000, 0x0000_0123_4567_8000
SOURCE_ID, DESTINATION_ID = 0xA00A, 0xB00B


def header(*dws):
    """Four DW as the 128 bits of a header, DW0 on top."""
    return sum(dw << 32 * (3 - n) for n, dw in enumerate([*dws, 0][:4]))


def request(kind, address, dwords, requester_id, tag):
    """Memory request (2.2.7): Fmt/Type of the 3 DW form, both byte enables F; 4 DW (bit 29) only above 4 GB."""
    dw1 = requester_id << 16 | tag << 8 | 0xFF
    if address >> 32:
        return header((kind | 0x20) << 24 | dwords, dw1, address >> 32, address & 0xFFFF_FFFF)
    return header(kind << 24 | dwords, dw1, address, 0)


def beats(head, payload, data_bytes):
    """Beats of a TLP: the header with the first, the payload cut to their width."""
    parts = [payload[n:n + data_bytes] for n in range(0, len(payload), data_bytes)] or [b""]
    return [{"data": int.from_bytes(part, "little"), "header": head if n == 0 else 0, "dwords": len(part) // 4,
             "first": n == 0, "last": n == len(parts) - 1} for n, part in enumerate(parts)]


class Host:
    """Answers reads: splits at lines, mixes the chunks, and makes beats."""
    def __init__(self, rng, data_bytes, page):
        self.rng, self.data_bytes, self.page = rng, data_bytes, page
        self.open = []

    def ask(self, read_header):
        """Take a read. Its pieces are answered in address order."""
        dws = [read_header >> 32 * (3 - n) & 0xFFFF_FFFF for n in range(4)]
        address = dws[3] if dws[0] >> 29 & 1 else dws[2]
        self.open.append({"tag": dws[1] >> 8 & 0xFF, "at": address % 4096, "left": 4 * (dws[0] & 0x3FF)})

    def piece(self, *, status=0, poisoned=0, whole=False):
        """Beats of the next completion of any open read."""
        read = self.rng.choice(self.open)
        size = read["left"] if whole or self.rng.random() < 0.3 else self.rng.randrange(64, read["left"] + 1, 64)
        # CplD (2.2.9): Byte Count is what is left of the request, this piece included; Lower Address its low 7 bits.
        fmt_type, length = (0x0A, 0) if status else (0x4A, size // 4)
        head = header(fmt_type << 24 | poisoned << 14 | length, 0x0100 << 16 | status << 13 | read["left"] % 4096,
                      SOURCE_ID << 16 | read["tag"] << 8 | read["at"] % 128)
        payload = b"" if status else self.page[read["at"]:read["at"] + size]
        read["at"] += size
        read["left"] -= size
        if status or not read["left"]:
            self.open.remove(read)
        return self.beats(head, payload)

    def beats(self, head, payload):
        """Cut a payload into beats."""
        return beats(head, payload, self.data_bytes)


class Driver:
    """Drives one engine cycle by cycle and records what it does."""
    def __init__(self, dut, name, **rates):
        self.dut, self.rng = dut, seeded(name)
        self.rates = {"read": 1.0, "write": 1.0, "answer": 1.0, **rates}
        self.cycle = 0
        self.page = b""
        self.new_page()
        self.destination = bytearray(4096)
        self.writes, self.write_starts = [], []
        self.last_answer = self.last_write = None
        self.offered = {"read": None, "write": None}
        self.current = None
        self.queue = []
        self.reads = 0

    def new_page(self):
        """Put other bytes in the source page."""
        self.page = self.rng.randbytes(4096)
        self.host = Host(self.rng, self.dut.data_bytes, self.page)

    def new_page_of_another_slot(self):
        """A host that answers the reads of the other of two slots, in both generations, with bytes of its own."""
        other, chunks = Host(self.rng, self.dut.data_bytes, self.rng.randbytes(4096)), self.dut.chunks
        size = self.dut.chunk_bytes
        for number in range(2 * chunks):
            other.open.append({"tag": (1 - self.dut.tag.slot) * 2 * chunks + number, "at": number % chunks * size, "left": size})
        return other

    async def start(self, ctx, limit=1000):
        """Pulse ``start``."""
        dut = self.dut
        for port, value in (("source_address", SOURCE), ("destination_address", DESTINATION), ("source_id", SOURCE_ID),
                            ("destination_id", DESTINATION_ID), ("limit", limit), ("start", 1)):
            ctx.set(getattr(dut, port), value)
        self.reads, self.writes, self.write_starts = 0, [], []
        await self.step(ctx, answer=False)
        ctx.set(dut.start, 0)
        ctx.set(dut.source_address, 0)
        ctx.set(dut.destination_address, 0)

    async def step(self, ctx, answer=True, **options):
        """One cycle: maybe an answer, maybe ready."""
        dut = self.dut
        if answer and not self.queue and self.host.open and self.rng.random() < self.rates["answer"]:
            self.queue = self.host.piece(**options)
        beat = self.queue.pop(0) if self.queue and self.rng.random() < self.rates["answer"] else None
        ctx.set(dut.completion.valid, beat is not None)
        if beat:
            ctx.set(dut.completion.payload, beat)
            self.last_answer = self.cycle
        ctx.set(dut.o_read.ready, self.rng.random() < self.rates["read"])
        ctx.set(dut.o_write.ready, self.rng.random() < self.rates["write"])
        self.check_stream(ctx, "read", dut.o_read)
        self.check_stream(ctx, "write", dut.o_write)
        assert ctx.get(dut.completion.ready)
        if ctx.get(dut.o_read.valid) and ctx.get(dut.o_read.ready):
            self.take_read(ctx.get(dut.o_read.payload))
        if ctx.get(dut.o_write.valid) and ctx.get(dut.o_write.ready):
            self.take_write(ctx.get(dut.o_write.payload))
        elif self.current is not None:
            assert ctx.get(dut.o_write.valid), "a gap in a chunk"
        await ctx.tick()
        self.cycle += 1

    def check_stream(self, ctx, name, port):
        """What is offered stays until it is taken."""
        valid, payload = ctx.get(port.valid), ctx.get(port.payload)
        if self.offered[name] is not None:
            assert valid and payload.as_bits() == self.offered[name], name
        self.offered[name] = payload.as_bits() if valid and not ctx.get(port.ready) else None

    def take_read(self, payload):
        """A read is what the specification says, for the next chunk."""
        size = self.dut.chunk_bytes
        tag = payload.header >> 72 & 0xFF
        chunks = 4096 // size
        assert tag % chunks == self.reads and tag // (2 * chunks) == self.dut.tag.slot
        assert payload.header == request(0x00, SOURCE + self.reads * size, size // 4, SOURCE_ID, tag)
        assert (payload.first, payload.last, payload.dwords, payload.poisoned) == (1, 1, 0, 0)
        self.reads += 1
        self.host.ask(payload.header)

    def take_write(self, payload):
        """A write is one whole chunk; its bytes land in the destination."""
        if payload.first:
            assert self.current is None
            self.write_starts.append(self.cycle)
            address = payload.header & 0xFFFF_FFFF
            self.current = [address % 4096, b""]
            assert payload.header == request(0x40, DESTINATION + address % 4096, self.dut.chunk_bytes // 4, DESTINATION_ID, 0)
        else:
            assert payload.header == 0
        assert (payload.dwords, payload.poisoned, payload.prefix_valid) == (self.dut.data_bytes // 4, 0, 0)
        self.current[1] += payload.data.to_bytes(self.dut.data_bytes, "little")
        assert payload.last == (len(self.current[1]) == self.dut.chunk_bytes)
        if payload.last:
            at, content = self.current
            assert content == self.page[at:at + len(content)], f"wrong bytes in the chunk at {at:#x}"
            self.destination[at:at + len(content)] = content
            self.writes.append(at)
            self.current = None
            self.last_write = self.cycle

    async def finish(self, ctx, cycles=3000, **options):
        """Run until the page is written."""
        for _ in range(cycles):
            if ctx.get(self.dut.written):
                break
            await self.step(ctx, **options)
        assert ctx.get(self.dut.written), "never written"
        assert bytes(self.destination) == self.page
        assert sorted(self.writes) == list(range(0, 4096, self.dut.chunk_bytes))
        assert ctx.get(self.dut.reads_sent) and not ctx.get(self.dut.outstanding) and not ctx.get(self.dut.writing)
        assert ctx.get(self.dut.error) is CopyError.NONE

    async def settle(self, ctx, cycles=3000, **options):
        """Run until nothing is in flight."""
        for _ in range(cycles):
            if not ctx.get(self.dut.outstanding):
                assert self.current is None and not ctx.get(self.dut.o_write.valid)
                return
            await self.step(ctx, **options)
        raise AssertionError("never settled")
