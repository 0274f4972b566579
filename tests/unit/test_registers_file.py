# amaranth: UnusedElaboratable=no
"""The register file: what the bus writes and reads, checked against a map typed in here by hand."""

import os
import random
from pathlib import Path

import pytest
from amaranth.hdl import Cat, Const, Signal
from amaranth.sim import Simulator

import pagehop.interposer
from pagehop.registers.file import SETTLE_CYCLES, RegisterFile
from pagehop_sim.planted import planted

CLOCK = 4e-9
RDL = """
addrmap small {
    default regwidth = 64; default accesswidth = 32; default sw = rw; default hw = r; lsb0;
    reg { default sw = r; default hw = na; field {} magic[31:0] = 0x70686770; field {} kind[63:48] = 7; } identification @ 0x0;
    reg { field {} low[11:4] = 0x5A; field {} high[63:60] = 3; field { hw = na; } scratch[40:33] = 0; } control @ 0x8;
    reg { field { singlepulse; } start[0:0] = 0; field { singlepulse; } upper[40:40] = 0; field {} target[8:8] = 1; } command @ 0x10;
    reg { default sw = r; default hw = w; field {} busy[0:0]; field {} count[63:32]; } status @ 0x20;
    regfile group { reg { field {} address[63:0] = 0; } base @ 0x0; reg { field {} value[31:0] = 0x12345678; } limit @ 0x8; };
    group first @ 0x100;
    group second @ 0x110;
    external mem { mementries = 32; memwidth = 64; sw = r; } take @ 0x400;
    external mem { mementries = 16; memwidth = 64; sw = r; } peek @ 0x800;
};
"""
# Offset: (word after reset, bits software can write and read back). Typed from the text above.
PLAIN = {
    0x00: (0x0007_0000_7068_6770, 0),
    0x08: (0x3000_0000_0000_05A0, 0xF000_01FE_0000_0FF0),
    0x10: (0x0000_0000_0000_0100, 0x0000_0000_0000_0100),
    0x100: (0, 0xFFFF_FFFF_FFFF_FFFF),
    0x108: (0x1234_5678, 0xFFFF_FFFF),
    0x110: (0, 0xFFFF_FFFF_FFFF_FFFF),
    0x118: (0x1234_5678, 0xFFFF_FFFF),
}
STATUS, TAKE, PEEK = 0x20, 0x400, 0x800
NOTHING = (0x18, 0x28, 0xF8, 0x120, 0x500, 0x7F8, 0x880)


def generator(name):
    """Random numbers of one test, from SEED and its name."""
    seed = f"{os.environ.get('SEED', '1')}-{name}"
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture
def rdl(tmp_path):
    path = tmp_path / "registers.rdl"
    path.write_text(RDL)
    return path


def byte_mask(strobe):
    return sum(0xFF << 8 * byte for byte in range(8) if strobe >> byte & 1)


async def access(ctx, bus, address, write=0, data=0, strobe=0xFF):
    """One access; return (data, error, cycles from acceptance to answer) of a read."""
    ctx.set(bus.request.payload, {"address": address, "write": write, "data": data, "strobe": strobe})
    ctx.set(bus.request.valid, 1)
    _, _, ready = await ctx.tick().sample(bus.request.ready)
    while not ready:
        _, _, ready = await ctx.tick().sample(bus.request.ready)
    ctx.set(bus.request.valid, 0)
    if write:
        return None
    ctx.set(bus.response.ready, 1)
    cycles = 1
    _, _, valid, payload = await ctx.tick().sample(bus.response.valid, bus.response.payload)
    while not valid:
        cycles += 1
        _, _, valid, payload = await ctx.tick().sample(bus.response.valid, bus.response.payload)
    ctx.set(bus.response.ready, 0)
    return payload.data, payload.error, cycles


async def serve(ctx, port, words, log, delays):
    """Memory behind a port: answer each request after the next of ``delays``, and log it."""
    ctx.set(port.request.ready, 1)
    while True:
        _, _, valid, payload = await ctx.tick().sample(port.request.valid, port.request.payload)
        if not valid:
            continue
        ctx.set(port.request.ready, 0)
        log.append((payload.index, payload.strobe))
        for _ in range(next(delays)):
            await ctx.tick()
        ctx.set(port.response.payload, {"data": words[payload.index], "error": 0})
        ctx.set(port.response.valid, 1)
        await ctx.tick()
        ctx.set(port.response.valid, 0)
        ctx.set(port.request.ready, 1)


def run(dut, *benches, background=()):
    simulator = Simulator(dut)
    simulator.add_clock(CLOCK)
    for bench in benches:
        simulator.add_testbench(bench)
    for bench in background:
        simulator.add_testbench(bench, background=True)
    simulator.run()


def endless(rng, most):
    while True:
        yield rng.randrange(most)


def shown_by_ports(ctx, dut, offset):
    """What the hardware sees of a register: the bits with a port, and their mask."""
    fields = {
        0x08: ((dut.control.low, 4, 8), (dut.control.high, 60, 4)), 0x10: ((dut.command.target, 8, 1),),
        0x100: ((dut.first_base.address, 0, 64),), 0x108: ((dut.first_limit.value, 0, 32),),
        0x110: ((dut.second_base.address, 0, 64),), 0x118: ((dut.second_limit.value, 0, 32),),
    }.get(offset, ())
    return sum(ctx.get(port) << low for port, low, _ in fields), sum((1 << width) - 1 << low for _, low, width in fields)


def access_at_random(dut, rng):
    """Compare some hundred accesses with the typed map; return how many there were of each kind."""
    seen = {"write": 0, "error": 0, "memory": 0, "partial": 0}

    async def bench(ctx):
        bus = dut.bus[0]
        model = {offset: reset for offset, (reset, _) in PLAIN.items()}
        words = [rng.getrandbits(64) for _ in range(32)]
        peek_words[:] = words
        for _ in range(400):
            kind = rng.random()
            strobe = rng.choice((0xFF, 0x0F, 0xF0, rng.randrange(1, 256)))
            if kind < 0.45:
                offset, value = rng.choice((*PLAIN, STATUS, PEEK, *NOTHING)), rng.getrandbits(64)
                await access(ctx, bus, offset, 1, value, strobe)
                seen["write"] += 1
                seen["partial"] += strobe != 0xFF
                if offset in PLAIN:
                    mask = PLAIN[offset][1] & byte_mask(strobe)
                    model[offset] = (model[offset] & ~mask) | (value & mask)
            elif kind < 0.85:
                offset = rng.choice(tuple(PLAIN))
                data, error, cycles = await access(ctx, bus, offset, strobe=strobe)
                assert (data, error) == (model[offset], 0)
                assert cycles == SETTLE_CYCLES + 5
                shown, mask = shown_by_ports(ctx, dut, offset)
                assert shown == model[offset] & mask
            elif kind < 0.92:
                index = rng.randrange(16)
                assert (await access(ctx, bus, PEEK + 8 * index, strobe=strobe))[:2] == (words[index], 0)
                assert log[-1] == (index, strobe)
                seen["memory"] += 1
            else:
                assert (await access(ctx, bus, rng.choice(NOTHING)))[1] == 1
                seen["error"] += 1

    peek_words, log = [], []

    async def peek(ctx):
        await serve(ctx, dut.peek, peek_words, log, endless(rng, 20))

    run(dut, bench, background=[peek])
    assert len(log) == seen["memory"]
    return seen


def test_random_accesses_follow_the_map(rdl):
    seen = access_at_random(RegisterFile(rdl), generator("random accesses"))
    assert min(seen.values()) > 10, seen


class _StrobesIgnored(RegisterFile):
    @staticmethod
    def _field(m, register, field, write, request):
        whole = Signal.like(request)
        m.d.comb += [whole.eq(request), whole.strobe.eq(0xFF)]
        return RegisterFile._field(m, register, field, write, whole)


class _UnmappedReadsAreZero(RegisterFile):
    def _read_registers(self, *arguments):
        kept, (valid, client, word, _) = super()._read_registers(*arguments)
        return kept, (valid, client, word, Const(0))


class _LastRegisterHidden(RegisterFile):
    @staticmethod
    def _is(place, registers):
        return RegisterFile._is(place, [register for register in registers if register.offset != max(PLAIN)])


class _FirstWriteForgetsTheRest(RegisterFile):
    """Planted bug: the bytes that the first write leaves are not what a reset makes them."""
    def _keep(self, m, place, known, request, write):
        port, written = super()._keep(m, place, known, request, write)
        return port, written | Cat(*[1] * len(written))


@pytest.mark.parametrize("mutant", [_StrobesIgnored, _UnmappedReadsAreZero, _LastRegisterHidden, _FirstWriteForgetsTheRest])
def test_a_planted_bug_is_caught(rdl, mutant):
    with pytest.raises(AssertionError):
        access_at_random(mutant(rdl), generator("planted"))


def test_ports_show_what_was_written_in_the_cycle_of_the_pulse(rdl):
    dut = RegisterFile(rdl)
    seen = []

    async def bench(ctx):
        await access(ctx, dut.bus[0], 0x10, 1, 0x0000_A500_0000_0001, 0xFF)
        await access(ctx, dut.bus[0], 0x10, 1, 0x0000_FF00_0000_0100, 0x0F)
        await access(ctx, dut.bus[0], 0x08, 1, 0xF, 0x80)
        for _ in range(6):
            await ctx.tick()

    async def watch(ctx):
        cycle = 0
        async for _, _, written, command, other in ctx.tick().sample(dut.command_written, dut.command, dut.control_written):
            seen.append((cycle, written, command.start, command.upper, command.target, other))
            cycle += 1

    run(dut, bench, background=[watch])
    # Accepted in cycles 0, 1 and 2, visible 3 cycles later.
    assert seen[3:6] == [(3, 1, 1, 1, 0, 0), (4, 1, 0, 0, 1, 0), (5, 0, 0, 0, 1, 1)]
    assert all(row[1:] == (0, 0, 0, 1, 0) for row in seen[:3] + seen[6:])


def test_hardware_fields_are_read_after_an_earlier_write_took_effect(rdl):
    dut = RegisterFile(rdl)

    async def bench(ctx):
        for busy in (1, 0, 1, 1, 0):
            await access(ctx, dut.bus[0], 0x10, 1, busy, 0xFF)
            data, error, _ = await access(ctx, dut.bus[0], STATUS)
            assert (data, error) == (busy | 0xABCD << 32, 0)

    async def hardware(ctx):
        """Show ``start`` in ``busy`` after ``SETTLE_CYCLES`` cycles, the latest that the contract allows."""
        line = [0] * (SETTLE_CYCLES - 1)
        ctx.set(dut.status.count, 0xABCD)
        busy = 0
        async for _, _, written, start in ctx.tick().sample(dut.command_written, dut.command.start):
            line.append((written, start))
            if (event := line.pop(0)) and event[0]:
                busy = event[1]
            ctx.set(dut.status.busy, busy)

    run(dut, bench, background=[hardware])


@pytest.mark.hazard("D6")
def test_a_slow_memory_read_stops_no_other_access(rdl):
    dut = RegisterFile(rdl, clients=2)
    release = []

    async def slow(ctx):
        assert (await access(ctx, dut.bus[0], TAKE + 8))[:2] == (111, 0)
        assert release, "The read was answered before the memory answered"

    async def other(ctx):
        for value in range(40):
            await access(ctx, dut.bus[1], 0x100, 1, value)
            assert (await access(ctx, dut.bus[1], 0x100))[:2] == (value, 0)
            assert (await access(ctx, dut.bus[1], PEEK))[:2] == (222, 0)
        release.append(True)
        assert (await access(ctx, dut.bus[1], TAKE + 16))[:2] == (333, 0)

    async def take(ctx):
        ctx.set(dut.take.request.ready, 1)
        for index, word in ((1, 111), (2, 333)):
            _, _, valid, payload = await ctx.tick().sample(dut.take.request.valid, dut.take.request.payload)
            while not valid:
                _, _, valid, payload = await ctx.tick().sample(dut.take.request.valid, dut.take.request.payload)
            assert payload.index == index
            while not release:
                await ctx.tick()
            ctx.set(dut.take.response.payload.data, word)
            ctx.set(dut.take.response.valid, 1)
            await ctx.tick()
            ctx.set(dut.take.response.valid, 0)

    async def peek(ctx):
        await serve(ctx, dut.peek, [222], [], endless(random.Random(0), 3))

    run(dut, slow, other, background=[take, peek])


@pytest.mark.hazard("H47", "I12")
def test_short_reads_of_a_whole_word_memory_do_not_reach_it(rdl):
    dut = RegisterFile(rdl, whole_words=("take",))
    log = []

    async def bench(ctx):
        for strobe in (0x0F, 0xF0, 0x01, 0x7F, 0xFE):
            assert (await access(ctx, dut.bus[0], TAKE, strobe=strobe))[:2] == (0, 1)
        assert log == []
        assert (await access(ctx, dut.bus[0], TAKE))[:2] == (7, 0)
        assert log == [(0, 0xFF)]

    async def take(ctx):
        await serve(ctx, dut.take, [7], log, endless(random.Random(0), 3))

    run(dut, bench, background=[take])


def test_writes_to_nothing_are_counted_once_each(rdl):
    dut = RegisterFile(rdl)
    pulses = []

    async def bench(ctx):
        for address in (*NOTHING, TAKE, PEEK):
            await access(ctx, dut.bus[0], address, 1, 5)
        for address in (*PLAIN, STATUS):
            await access(ctx, dut.bus[0], address, 1, 5)
        for _ in range(6):
            await ctx.tick()

    async def watch(ctx):
        async for _, _, dropped in ctx.tick().sample(dut.bus_dropped):
            pulses.append(dropped)

    run(dut, bench, background=[watch])
    assert sum(pulses) == len(NOTHING) + 2


@pytest.mark.parametrize("clients", [2, 3])
def test_clients_take_turns_and_order_is_that_of_acceptance(rdl, clients):
    dut = RegisterFile(rdl, clients=clients)
    accepted, shown = [], []

    def writer(number):
        async def bench(ctx):
            for count in range(50):
                await access(ctx, dut.bus[number], 0x100, 1, number << 32 | count)
        return bench

    async def finish(ctx):
        for _ in range(50 * clients + 10):
            await ctx.tick()

    async def watch(ctx):
        signals = [signal for bus in dut.bus for signal in (bus.request.valid, bus.request.ready, bus.request.payload)]
        async for values in ctx.tick().sample(dut.first_base_written, dut.first_base.address, *signals):
            _, _, written, word, *rest = values
            accepted.extend(rest[at + 2].data for at in range(0, len(rest), 3) if rest[at] and rest[at + 1])
            if written:
                shown.append(word)

    run(dut, *(writer(number) for number in range(clients)), finish, background=[watch])
    assert len(shown) == 50 * clients
    assert shown == accepted
    # While all of them ask, each is served once in a round.
    rounds = [accepted[at:at + clients] for at in range(0, 40 * clients, clients)]
    assert all({word >> 32 for word in served} == set(range(clients)) for served in rounds)


def test_the_interposer_map_builds():
    dut = RegisterFile(Path(pagehop.interposer.__file__).parent / "registers.rdl", clients=2, whole_words=("dirty_take",))
    assert dut.address_bits == 18
    assert dut.move_limits.hold.shape().width == 32

    async def bench(ctx):
        assert (await access(ctx, dut.bus[1], 0))[:2] == (2 << 48 | 1 << 32 | int.from_bytes(b"pghp", "little"), 0)
        assert (await access(ctx, dut.bus[1], 0x90))[:2] == (12 << 16 | 1 << 8, 0)
        assert (await access(ctx, dut.bus[0], 0xA8))[:2] == (2500 << 32 | 5000, 0)
        await access(ctx, dut.bus[0], 0x28, 1, 1 << 40)
        for _ in range(3):
            await ctx.tick()
        assert ctx.get(dut.host_b_offset.offset) == 1 << 40

    run(dut, bench)


@pytest.mark.parametrize(("arguments", "sentence"), [
    ({"clients": 0}, r"^Register file must have 1 to 8 clients, not 0$"),
    ({"looked_up": ("control",)}, r"^Register that is looked up must be one of status, not 'control'$"),
    ({"absent": ("nothing",)}, r"^Register that is absent must be one of .*, not 'nothing'$"),
    ({"whole_words": ("tak",)}, r"^Memory read in whole words must be one of take, peek, not 'tak'$"),
])
def test_wrong_parameters_are_refused(rdl, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        RegisterFile(rdl, **arguments)


SHARED = """
addrmap shared {
    default regwidth = 32; default accesswidth = 32; default sw = rw; default hw = r; lsb0;
    reg { field {} low[7:0] = 0x21; field {} top[31:28] = 5; } plain @ 0x0;
    reg { field {} whole[31:0] = 0x89ABCDEF; } other @ 0x4;
    reg { default hw = rw; field {} on[0:0]; field { onwrite = woclr; } failed[9:8]; field { sw = r; hw = w; } busy[17:17]; } control @ 0xC;
    reg { default sw = r; default hw = w; field {} place[15:0]; } head @ 0x8;
    reg { regwidth = 64; default hw = rw; field {} mode[3:0]; field {} page[53:10]; } directory @ 0x10;
    reg { field {} value[7:0] = 0; } alone @ 0x1C;
    external mem { mementries = 4; memwidth = 64; sw = rw; } table @ 0x80;
};
"""
#: Word after reset, and bits that software writes, of registers that are kept by the file.
KEPT = {0x00: (0x89AB_CDEF_5000_0021, 0xFFFF_FFFF_F000_00FF), 0x18: (0, 0xFF << 32)}
CONTROL_WORD, DIRECTORY, TABLE = 0x8, 0x10, 0x80


def share_at_random(dut, rng):
    """Accesses to registers that share a word, and to what a block keeps; the block here keeps what it is told to, in one cycle."""
    state = {"on": 0, "failed": 0, "mode": 0, "page": 0, "table": [0] * 4}
    seen = {"plain": 0, "other": 0, "alone": 0}

    def merge(old, write):
        mask = byte_mask(write.strobe)
        return old & ~mask | write.data & mask

    async def block(ctx):
        ports = (dut.control_write, dut.directory_write, dut.table_write, *(getattr(dut, f"{name}_written") for name in seen))
        async for _, _, control, directory, table, *written in ctx.tick().sample(*ports):
            state["on"] = merge(state["on"], control) & 1
            state["failed"] = (state["failed"] & ~(merge(0, control) >> 8 & 3)) | (rng.randrange(4) if rng.random() < 0.02 else 0)
            whole = merge(state["mode"] | state["page"] << 10, directory)
            state["mode"], state["page"] = whole & 15, whole >> 10 & (1 << 44) - 1
            state["table"][table.index] = merge(state["table"][table.index], table)
            for name, pulse in zip(seen, written, strict=True):
                seen[name] += pulse
            ctx.set(dut.control, {"on": state["on"], "failed": state["failed"], "busy": 1})
            ctx.set(dut.directory, {"mode": state["mode"], "page": state["page"]})
            ctx.set(dut.head, {"place": 0x1234})

    async def serve_table(ctx):
        await serve(ctx, dut.table, state["table"], [], endless(rng, 5))

    async def bench(ctx):
        model, expected = {offset: reset for offset, (reset, _) in KEPT.items()}, dict.fromkeys(seen, 0)
        mirror = {"directory": 0, "on": 0, "table": [0] * 4}
        for _ in range(500):
            offset = rng.choice((*KEPT, CONTROL_WORD, DIRECTORY, TABLE + 8 * rng.randrange(4)))
            strobe = rng.choice((0xFF, 0xF, 0xF0, rng.randrange(1, 256)))
            value, mask = rng.getrandbits(64), byte_mask(strobe)
            if rng.random() < 0.5:
                await access(ctx, dut.bus[0], offset, 1, value, strobe)
                if offset in KEPT:
                    bits = KEPT[offset][1] & mask
                    model[offset] = model[offset] & ~bits | value & bits
                    for name, lanes in (("plain", 0xF), ("other", 0xF0)) if offset == 0 else (("alone", 0xF0),):
                        expected[name] += bool(strobe & lanes)
                elif offset == DIRECTORY:
                    mirror["directory"] = mirror["directory"] & ~mask | value & mask & 0x3F_FFFF_FFFF_FC0F
                elif offset == CONTROL_WORD:
                    mirror["on"] = value >> 32 & 1 if strobe & 16 else mirror["on"]
                else:
                    index = (offset - TABLE) // 8
                    mirror["table"][index] = mirror["table"][index] & ~mask | value & mask
                continue
            data, error, _ = await access(ctx, dut.bus[0], offset)
            if offset in KEPT:
                assert (data, error) == (model[offset], 0)
                assert ctx.get(dut.other.whole) == model[0] >> 32 and ctx.get(dut.plain.top) == model[0] >> 28 & 15
            elif offset == DIRECTORY:
                assert (data, error) == (mirror["directory"], 0)
            elif offset == CONTROL_WORD:
                assert (data & ~(0x300 << 32), error) == (mirror["on"] << 32 | 1 << 49 | 0x1234, 0)
            else:
                assert (data, error) == (mirror["table"][(offset - TABLE) // 8], 0)
            hole, error, _ = await access(ctx, dut.bus[0], 0x20)
            assert (hole, error) == (0, 0)
        for _ in range(6):
            await ctx.tick()
        assert seen == expected

    run(dut, bench, background=[block, serve_table])


@pytest.fixture
def shared(tmp_path):
    path = tmp_path / "registers.rdl"
    path.write_text(SHARED)
    return path


def test_registers_of_32_bits_share_words_and_blocks_keep_what_both_write(shared):
    share_at_random(RegisterFile(shared, holes_are_zero=True), generator("shared"))


@pytest.mark.parametrize("change", [
    ("request.strobe[register.shift // 8:][:register.size].any()", "1"), ("register.reset << register.shift", "register.reset"),
    ("first = register.shift + field.low", "first = field.low"),
    ("request.strobe[first:first + len(port.strobe)]", "request.strobe[:len(port.strobe)]"),
    ("0 <= bit - register.shift - field.low < field.width", "0 <= bit - field.low < field.width"),
    ("0 if self.holes_are_zero else ~exists", "~exists"),
], ids=["written", "reset", "stored", "told", "read", "holes"])
def test_planted_bug_in_shared_words_is_caught(shared, change):
    with pytest.raises(AssertionError):
        share_at_random(planted(RegisterFile, *change)(shared, holes_are_zero=True), generator("shared bug"))
