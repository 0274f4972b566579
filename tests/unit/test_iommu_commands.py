"""Commands of the IOMMU's model: legality bit by bit, and what they invalidate."""

from dataclasses import replace

import pytest

from pagehop_tb.models.iommu import AtsCommand, Cached, DirectoryCommand, DirectoryMode, Fence, Invalidation, Keeps, decode, illegal, invalidates

MIB = 1 << 20
OFF, _, ONE_LEVEL, _ = DirectoryMode

# Commands as numbers of 128 bits: whether each is legal, and where it depends on it, how the IOMMU is set up.
VMA, GVMA, FENCE, DDT, PDT, INVAL, PRGR = 0x001, 0x081, 0x002, 0x003, 0x083, 0x004, 0x084
LEGAL = [
    *((VMA | 1 << bit, {}) for bit in (10, *range(12, 32), 32, 33, *range(44, 60), *range(74, 126))),
    *((GVMA | 1 << bit, {}) for bit in (10, *range(12, 32), 33, *range(44, 60), *range(74, 126))),
    *((FENCE | 1 << bit, {}) for bit in (10, 12, 13, *range(32, 126))), (FENCE | 1 << 11, {"wired": True}),
    *((DDT | 1 << 33 | 1 << bit, {}) for bit in range(40, 56)), (DDT, {}), (DDT | 1 << 63, {}),
    (DDT | 1 << 33 | 0x7F << 40, {"directory": ONE_LEVEL}),
    (DDT | 1 << 33 | 1 << 63, {"directory": OFF}), (PDT | 1 << 33 | 0xFF << 12 | 0xFFFF << 40, {}),
    *((command | 1 << bit, {}) for command in (INVAL, PRGR) for bit in (*range(12, 34), *range(40, 128))),
]
ILLEGAL = [
    *((opcode, {}) for opcode in (0, *range(5, 128))), *((opcode | func3 << 7, {}) for opcode in range(1, 5) for func3 in range(2, 8)),
    (2 | 1 << 7, {}),
    *((command | 1 << bit, {}) for command in (VMA, GVMA) for bit in (11, 34, *range(35, 44), *range(60, 74), 126, 127)), (GVMA | 1 << 32, {}),
    *((FENCE | 1 << bit, {}) for bit in (11, *range(14, 32), 126, 127)),
    *((DDT | 1 << bit, {}) for bit in (10, 11, *range(12, 32), 32, *range(34, 40), *range(64, 128))),
    *((DDT | 1 << 33 | 1 << bit, {}) for bit in range(56, 64)),
    (DDT | 1 << 33 | 0x80 << 40, {"directory": ONE_LEVEL}), (PDT, {}), (PDT | 1 << 33 | 0x80 << 40, {"directory": ONE_LEVEL}),
    *((PDT | 1 << 33 | 1 << bit, {}) for bit in (10, 11, *range(20, 32), 32, *range(34, 40), *range(56, 128))),
    *((command | 1 << bit, {}) for command in (INVAL, PRGR) for bit in (10, 11, *range(34, 40))), (INVAL, {"ats": False}), (PRGR, {"ats": False}),
]


def test_legal_commands():
    assert [(hex(value), why) for value, settings in LEGAL if (why := illegal(value.to_bytes(16, "little"), **settings))] == []


def test_illegal_commands():
    assert [hex(value) for value, settings in ILLEGAL if not illegal(value.to_bytes(16, "little"), **settings)] == []


def test_commands_are_decoded():
    page = Invalidation(av=1, pscid=0xABCDE, pscv=1, gv=1, gscid=0x1234, page=0xF_EDCB_A987_6543)
    value = 1 | 1 << 10 | 0xABCDE << 12 | 3 << 32 | 0x1234 << 44 | 0xFEDC_BA98_7654_3000 >> 12 << 74
    for command, number in (
            (page, value), (replace(page, func3=1), value | 1 << 7),
            (Fence(av=1, pr=1, data=0x1234_5678, dword=0x8000_0004 >> 2), 2 | 5 << 10 | 0x1234_5678 << 32 | 0x8000_0004 >> 2 << 64),
            (DirectoryCommand(dv=1, device_id=0x123456), 3 | 1 << 33 | 0x123456 << 40),
            (AtsCommand(func3=1, process_id=7, pv=1, dsv=1, requester=0x1234, segment=0x56, payload=9),
             0x84 | 7 << 12 | 3 << 32 | 0x561234 << 40 | 9 << 64)):
        assert decode(number.to_bytes(16, "little")) == command and command.pack() == number.to_bytes(16, "little")


FIRST = Cached(Keeps.FIRST, gscid=None, pscid=3, address=0x1234_5000)
GUEST = replace(FIRST, gscid=7)
SECOND = Cached(Keeps.SECOND, gscid=7, address=0x8765_4000)
CONTEXT, UPPER_LEVEL = Cached(Keeps.CONTEXT, 0x123), Cached(Keeps.DIRECTORY, 0x123, leaf=False)
THINGS = {"first": FIRST, "guest": GUEST, "second": SECOND, "context": CONTEXT, "upper": UPPER_LEVEL}
HERE, THERE = {"av": 1, "page": 0x12345}, {"av": 1, "page": 0x12346}


@pytest.mark.parametrize(("command", "names"), [
    (Invalidation(), {"first"}), (Invalidation(pscv=1, pscid=3), {"first"}), (Invalidation(pscv=1, pscid=4), set()),
    (Invalidation(**HERE), {"first"}), (Invalidation(**THERE), set()), (Invalidation(gscid=7, **HERE), {"first"}),
    (Invalidation(gv=1, gscid=7), {"guest"}), (Invalidation(gv=1, gscid=6), set()), (Invalidation(gv=1), set()),
    (Invalidation(gv=1, gscid=7, pscv=1, pscid=3, **HERE), {"guest"}), (Invalidation(gv=1, gscid=7, pscv=1, pscid=4, **HERE), set()),
    (Invalidation(func3=1), {"second"}), (Invalidation(func3=1, gscid=6, **HERE), {"second"}), (Invalidation(func3=1, gv=1, gscid=7), {"second"}),
    (Invalidation(func3=1, gv=1, gscid=6), set()), (Invalidation(func3=1, gv=1, gscid=7, av=1, page=0x87654), {"second"}),
    (Invalidation(func3=1, gv=1, gscid=7, **HERE), set()),
    (DirectoryCommand(), {"context", "upper"}), (DirectoryCommand(device_id=9), {"context", "upper"}),
    (DirectoryCommand(dv=1, device_id=0x123), {"context"}), (DirectoryCommand(dv=1, device_id=0x23), set()),
    (DirectoryCommand(func3=1, dv=1, device_id=0x123), set()),
    (Fence(), set()), (AtsCommand(), set()),
])
def test_what_commands_invalidate(command, names):
    assert {name for name, thing in THINGS.items() if invalidates(command, thing)} == names


def test_invalidation_of_sizes_pointers_and_global_entries():
    large = replace(FIRST, address=0x1220_0000, size=2 * MIB)
    assert invalidates(Invalidation(av=1, page=0x12345), large) and not invalidates(Invalidation(av=1, page=0x12445), large)
    pointer = replace(FIRST, leaf=False)
    assert not invalidates(Invalidation(**HERE), pointer) and invalidates(Invalidation(pscv=1, pscid=3), pointer)
    common = replace(FIRST, global_=True)
    assert not invalidates(Invalidation(pscv=1, pscid=3), common) and invalidates(Invalidation(**HERE), common)
