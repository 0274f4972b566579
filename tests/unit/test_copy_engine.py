# amaranth: UnusedElaboratable=no
"""Copying a page: the bytes, their order and pace, and everything that can go wrong on the way."""

import pytest
from copy_driver import SOURCE_ID, Driver, header

from pagehop.memory.copy_engine import CopyEngine, CopyError
from pagehop_sim.planted import planted
from pagehop_tb.simulate import run

WIDTHS = [(16, 128), (32, 64), (64, 128), (128, 128), (128, 256), (64, 512)]


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


def answers_of_another(dut, name):
    """Between the answers stand those to the reads of another slot: of the same chunks, in the same generation."""
    driver = Driver(dut, name, answer=0.7)

    async def bench(ctx):
        for _ in range(3):
            driver.new_page()
            other = driver.new_page_of_another_slot()
            await driver.start(ctx)
            while driver.reads < dut.chunks:
                await driver.step(ctx, answer=False)
            while other.open:
                if driver.rng.random() < 0.5 and driver.host.open:
                    await driver.step(ctx)
                else:
                    driver.queue += other.piece()
                while driver.queue:
                    await driver.step(ctx, answer=False)
            await driver.finish(ctx)

    run(dut, bench)


@pytest.mark.hazard("D16")
def test_answers_to_another_slot_are_not_taken():
    for slot in range(2):
        answers_of_another(CopyEngine(64, 128, slot, 2), f"slots/{slot}")


def test_planted_answer_of_another_slot_is_found():
    bug = planted(CopyEngine, "chunk, of_generation, of_slot = self.tag.decode(headers.whole_tag(header))",
                  "chunk, of_generation, of_slot = *self.tag.decode(headers.whole_tag(header))[:2], ~header.tag[7]")
    with pytest.raises(AssertionError):
        answers_of_another(bug(64, 128, 0, 2), "slots/bug")


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


@pytest.mark.parametrize(("place", "mark"), [(3, "poisoned"), (0, "digest_wrong")])
@pytest.mark.hazard("H14", "I9")
def test_damaged_beat_ends_the_copy(place, mark):
    dut = CopyEngine(16)
    driver = Driver(dut, "beat")

    async def bench(ctx):
        await driver.start(ctx)
        for _ in range(4):
            await driver.step(ctx, answer=False)
        driver.queue = driver.host.piece(whole=True)
        driver.queue[place][mark] = 1
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
