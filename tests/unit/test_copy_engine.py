# amaranth: UnusedElaboratable=no
"""Copying a page: the bytes, their order and pace, and everything that can go wrong on the way."""

import pytest

from pagehop.memory.copy_engine import CopyEngine, CopyError
from pagehop_tb.simulate import run, seeded

SOURCE, DESTINATION = 0x0000_0000_7654_3000, 0x0000_0123_4567_8000
SOURCE_ID, DESTINATION_ID = 0xA00A, 0xB00B
WIDTHS = [(16, 128), (32, 64), (64, 128), (128, 128), (128, 256), (64, 512)]


def header(*dws):
    """Four DW as the 128 bits of a header, DW0 on top."""
    return sum(dw << 32 * (3 - n) for n, dw in enumerate([*dws, 0][:4]))


def request(kind, address, dwords, requester_id, tag):
    """Memory request (2.2.7): Fmt/Type of the 3 DW form, both byte enables F; 4 DW (bit 29) only above 4 GB."""
    dw1 = requester_id << 16 | tag << 8 | 0xFF
    if address >> 32:
        return header((kind | 0x20) << 24 | dwords, dw1, address >> 32, address & 0xFFFF_FFFF)
    return header(kind << 24 | dwords, dw1, address, 0)


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
        parts = [payload[n:n + self.data_bytes] for n in range(0, len(payload), self.data_bytes)] or [b""]
        return [{"data": int.from_bytes(part, "little"), "header": head if n == 0 else 0, "dwords": len(part) // 4,
                 "first": n == 0, "last": n == len(parts) - 1} for n, part in enumerate(parts)]


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
        assert tag & 0x3F == self.reads and tag < 0x80
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


def copy_pages(dut, name, pages=2, **rates):
    driver = Driver(dut, name, **rates)

    async def bench(ctx):
        assert not ctx.get(dut.written)
        for _ in range(pages):
            driver.new_page()
            await driver.start(ctx)
            assert not ctx.get(dut.written) and not ctx.get(dut.reads_sent)
            await driver.finish(ctx)
        assert driver.writes != sorted(driver.writes) or dut.chunks == 1

    run(dut, bench)


@pytest.mark.hazard("D14", "I2")
@pytest.mark.parametrize(("data_bytes", "chunk_bytes"), WIDTHS)
def test_page_arrives_whatever_the_pace(data_bytes, chunk_bytes):
    copy_pages(CopyEngine(data_bytes, chunk_bytes), f"copy/{data_bytes}/{chunk_bytes}", read=0.5, write=0.6, answer=0.6)


@pytest.mark.parametrize(("data_bytes", "chunk_bytes"), WIDTHS)
def test_page_leaves_right_behind_its_last_line(data_bytes, chunk_bytes):
    """Full rate: reads one a cycle, and the last write beat at most 5 cycles and a chunk after the last completion beat."""
    dut = CopyEngine(data_bytes, chunk_bytes)
    driver = Driver(dut, f"pace/{data_bytes}/{chunk_bytes}")

    async def bench(ctx):
        await driver.start(ctx)
        begin = driver.cycle
        while driver.reads < dut.chunks:
            await driver.step(ctx, answer=False)
        assert driver.cycle - begin == dut.chunks
        await driver.finish(ctx, whole=True)
        assert driver.last_write - driver.last_answer <= 5 + chunk_bytes // data_bytes - 1

    run(dut, bench)


class AnyGeneration(CopyEngine):
    """Planted bug: late answers of the copy before count."""
    def _decode(self, m, generation, unanswered):
        piece, piece_valid = super()._decode(m, generation, unanswered)
        m.d.sync += piece.ours.eq(unanswered.bit_select(self.completion.payload.header[40:45], 1))
        return piece, piece_valid


class WholeTooEarly(CopyEngine):
    """Planted bug: a chunk counts as whole with any of its lines."""
    def _collect(self, m, buffer, piece, piece_valid, unanswered, answered, heard):
        _, chunk, error = super()._collect(m, buffer, piece, piece_valid, unanswered, answered, heard)
        return piece_valid & piece.first & (piece.unit[0] == 0), chunk, error


class Unstoppable(CopyEngine):
    """Planted bug: writes go on after an error."""
    def _write(self, m, buffer, whole, whole_chunk, halted):
        super()._write(m, buffer, whole, whole_chunk, halted & 0)


def test_planted_early_write_is_found():
    with pytest.raises(AssertionError):
        copy_pages(WholeTooEarly(64), "copy/64/128", read=0.5, write=0.6, answer=0.6)


def late_answers(dut, name):
    """Stop in the middle; what is still owed comes during the next copy, and does not get into it."""
    driver = Driver(dut, name, answer=0.7)

    async def bench(ctx):
        await driver.start(ctx, limit=40)
        for _ in range(12):
            await driver.step(ctx)
        ctx.set(dut.stop, 1)
        await driver.step(ctx)
        ctx.set(dut.stop, 0)
        sent = driver.reads
        await driver.settle(ctx, answer=False)
        assert ctx.get(dut.error) is CopyError.NONE and driver.reads <= sent + 1
        assert not ctx.get(dut.written) and not ctx.get(dut.reads_sent)
        late, driver.queue = driver.host, []
        assert late.open
        driver.new_page()
        await driver.start(ctx, limit=1000)
        while late.open:
            driver.queue = late.piece()
            while driver.queue:
                await driver.step(ctx)
        await driver.finish(ctx)

    run(dut, bench)


@pytest.mark.hazard("H07", "D16")
@pytest.mark.parametrize("data_bytes", [16, 64, 128])
def test_late_answers_are_dropped(data_bytes):
    late_answers(CopyEngine(data_bytes), f"late/{data_bytes}")


def test_planted_late_answer_is_found():
    with pytest.raises(AssertionError):
        late_answers(AnyGeneration(64), "late/64")


def fail(dut, options, error):
    """One bad completion in the middle of a copy: its code, no further write, everything answered, and the next copy works."""
    driver = Driver(dut, f"fail/{options}", answer=0.5)

    async def bench(ctx):
        await driver.start(ctx)
        for _ in range(20):
            await driver.step(ctx)
        while driver.queue:
            await driver.step(ctx, answer=False)
        while not driver.queue:
            await driver.step(ctx, **options)
        while ctx.get(dut.error) is CopyError.NONE:
            await driver.step(ctx, answer=False)
        assert ctx.get(dut.error) is error
        seen = driver.cycle
        await driver.settle(ctx)
        assert ctx.get(dut.error) is error and not ctx.get(dut.written)
        # Picked in the cycle before the error showed: on the port two cycles later.
        assert not [start for start in driver.write_starts if start > seen + 1]
        for _ in range(20):
            await driver.step(ctx)
        driver.new_page()
        await driver.start(ctx)
        assert ctx.get(dut.error) is CopyError.NONE
        await driver.finish(ctx)

    run(dut, bench)


@pytest.mark.parametrize(("options", "error"), [
    ({"status": 1}, CopyError.UNSUPPORTED),
    ({"status": 4}, CopyError.COMPLETER_ABORT),
    ({"status": 2}, CopyError.UNSUPPORTED),
    ({"status": 7}, CopyError.UNSUPPORTED),
    ({"poisoned": 1}, CopyError.POISONED),
])
@pytest.mark.hazard("H14", "I9")
def test_bad_completion_ends_the_copy(options, error):
    fail(CopyEngine(64), options, error)


def test_planted_write_after_error_is_found():
    with pytest.raises(AssertionError):
        fail(Unstoppable(64), {"status": 1}, CopyError.UNSUPPORTED)


@pytest.mark.parametrize(("dw0", "dw1"), [
    (0x4A00_0020, 0x0100_0040),   # longer than what is left
    (0x4A00_0008, 0x0100_0080),   # half a line
    (0x4A00_0010, 0x0100_0060),   # begins in the middle of a line
    (0x4A00_0010, 0x0100_0100),   # more left than was asked for
    (0x0A00_0000, 0x0100_0080),   # no data
])
@pytest.mark.hazard("H14", "I9")
def test_wrong_shape_counts_as_unsupported(dw0, dw1):
    dut = CopyEngine(64)
    driver = Driver(dut, "shape")

    async def bench(ctx):
        await driver.start(ctx)
        for _ in range(4):
            await driver.step(ctx, answer=False)
        tag = driver.host.open.pop(1)["tag"]
        driver.queue = driver.host.beats(header(dw0, dw1, SOURCE_ID << 16 | tag << 8), bytes(64))
        for _ in range(4):
            await driver.step(ctx, answer=False)
        assert ctx.get(dut.error) is CopyError.UNSUPPORTED
        await driver.settle(ctx)

    run(dut, bench)


@pytest.mark.hazard("H14", "I9")
def test_poisoned_beat_ends_the_copy():
    dut = CopyEngine(16)
    driver = Driver(dut, "beat")

    async def bench(ctx):
        await driver.start(ctx)
        for _ in range(4):
            await driver.step(ctx, answer=False)
        driver.queue = driver.host.piece(whole=True)
        driver.queue[3]["poisoned"] = 1
        for _ in range(len(driver.queue) + 2):
            await driver.step(ctx, answer=False)
        assert ctx.get(dut.error) is CopyError.POISONED
        await driver.settle(ctx)

    run(dut, bench)


@pytest.mark.hazard("H14", "H19", "I9")
@pytest.mark.parametrize("limit", [10, 100])
def test_silence_ends_the_copy(limit):
    dut = CopyEngine(64)
    driver = Driver(dut, "silence")

    async def bench(ctx):
        await driver.start(ctx, limit=limit)
        while not ctx.get(dut.reads_sent):
            await driver.step(ctx, answer=False)
        for _ in range(3):
            driver.queue = driver.host.piece()
            while driver.queue:
                await driver.step(ctx)
        while ctx.get(dut.error) is CopyError.NONE:
            await driver.step(ctx, answer=False)
        assert ctx.get(dut.error) is CopyError.TIMEOUT and not ctx.get(dut.outstanding)
        assert limit <= driver.cycle - driver.last_answer <= limit + 6

    run(dut, bench)


class ForgetsWhatIsOwed(CopyEngine):
    """Planted bug: what was given up is forgotten."""
    def _owe(self, m, unanswered, given_up, piece, piece_valid):
        super()._owe(m, 0, 0, piece, piece_valid)


def answer_what_was_given_up(dut, answers):
    """After a timeout the unanswered reads are owed: until the last piece of the last is there, or for 16 times the limit."""
    limit, driver = 20, Driver(dut, "owed")

    async def bench(ctx):
        await driver.start(ctx, limit=limit)
        while not ctx.get(dut.reads_sent):
            await driver.step(ctx, answer=False)
        while ctx.get(dut.error) is CopyError.NONE:
            assert not ctx.get(dut.owed)
            await driver.step(ctx, answer=False)
        assert ctx.get(dut.error) is CopyError.TIMEOUT
        given_up = driver.cycle
        while answers and driver.host.open:
            assert ctx.get(dut.owed), "an answer is still to come"
            driver.queue = driver.host.piece(status=driver.rng.choice((0, 0, 4)))
            while driver.queue:
                await driver.step(ctx, answer=False)
        while ctx.get(dut.owed):
            await driver.step(ctx, answer=False)
        waited = driver.cycle - given_up
        assert waited < 16 * limit if answers else 16 * limit - 4 <= waited <= 16 * limit + 4

    run(dut, bench)


@pytest.mark.hazard("H14", "D16")
@pytest.mark.parametrize("answers", [True, False])
def test_what_was_given_up_is_owed(answers):
    answer_what_was_given_up(CopyEngine(64), answers)


def test_planted_forgotten_answer_is_found():
    with pytest.raises(AssertionError):
        answer_what_was_given_up(ForgetsWhatIsOwed(64), True)


def test_a_read_that_is_offered_stays_after_stop():
    dut = CopyEngine(64)
    driver = Driver(dut, "offered", read=0)

    async def bench(ctx):
        await driver.start(ctx)
        await driver.step(ctx)
        ctx.set(dut.stop, 1)
        await driver.step(ctx)
        ctx.set(dut.stop, 0)
        for _ in range(5):
            await driver.step(ctx)
            assert ctx.get(dut.outstanding)
        driver.rates["read"] = 1
        for _ in range(5):
            await driver.step(ctx, answer=False)
        assert driver.reads == 1
        await driver.settle(ctx, whole=True)
        assert not driver.writes

    run(dut, bench)


def test_parameters_are_checked():
    with pytest.raises(ValueError, match=r"^Chunks of a copy must have one of 128, 256, 512 bytes with beats of 128, not 64$"):
        CopyEngine(128, 64)
    with pytest.raises(ValueError, match=r"^Beat width must be one of 16, 32, 64, 128 bytes, not 96$"):
        CopyEngine(96)
