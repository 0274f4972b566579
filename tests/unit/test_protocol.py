"""TLP codec of the bench: vectors typed from the specification facts, and properties over random TLPs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagehop_tb.protocol import (
    FlowClass,
    Kind,
    MalformedTlp,
    Tlp,
    answer,
    byte_mask,
    byte_range,
    completion_cuts,
    decode,
    encode,
    expand_byte_enables,
    memory_read,
    memory_write,
    pieces,
    read_completions,
    request_bytes,
    violations,
)

# Each vector: the fields, then the four header dwords worked out by hand from figures 2-5 to 2-33.
VECTORS = [
    (Tlp(Kind.MRD, 0x0100, 0x05, 0x1000, 16, 0xF, 0xF), (0x00000010, 0x010005FF, 0x00001000, 0)),
    (Tlp(Kind.MRD, 0x0100, 0x305, 0x1_2345_6000, 1024, 0xF, 0xF), (0x20880000, 0x010005FF, 0x00000001, 0x23456000)),
    (Tlp(Kind.MRD, 0xABCD, 0x1, 0x2000, 1, 0, 0), (0x00000001, 0xABCD0100, 0x00002000, 0)),
    (Tlp(Kind.MWR, 0x0208, 0, 0xFEE00000, 1, 0xF, 0, b"\x41\0\0\0"), (0x40000001, 0x0208000F, 0xFEE00000, 0)),
    (Tlp(Kind.MWR, 0x0208, 7, 0x80, 2, 0xC, 0x3, bytes(8), True, True, True, 5), (0x40543002, 0x0208073C, 0x00000080, 0)),
    (Tlp(Kind.MWR, 1, 0, 0xFFFFFFFF_FFFFF000, 1, 1, 0, bytes(4), poisoned=True), (0x60004001, 0x00010001, 0xFFFFFFFF, 0xFFFFF000)),
    (Tlp(Kind.MRD, 1, 2, 0x40, 1, 0xF, 0, hints=True, processing_hint=3, address_type=2, lightweight=True), (0x00030801, 0x0001020F, 0x00000043, 0)),
    (Tlp(Kind.IORD, 0, 1, 0x3F8, 1, 1), (0x02000001, 0x00000101, 0x000003F8, 0)),
    (Tlp(Kind.CFGWR0, 0, 3, 0x01080004, 1, 0x3, 0, bytes(4)), (0x44000001, 0x00000303, 0x01080004, 0)),
    (Tlp(Kind.CFGRD1, 0, 3, 0x01080010, 1, 0xF), (0x05000001, 0x0000030F, 0x01080010, 0)),
    (Tlp(Kind.FETCH_ADD, 0x0100, 0x1FF, 0x1_0000_0008, 2, 0, 0, bytes(8)), (0x6C080002, 0x0100FF00, 0x00000001, 0x00000008)),
    (Tlp(Kind.SWAP, 0x0100, 0, 0x20, 1, 0, 0, bytes(4)), (0x4D000001, 0x01000000, 0x00000020, 0)),
    (Tlp(Kind.CAS, 0x0100, 0, 0x20, 8, 0, 0, bytes(32)), (0x4E000008, 0x01000000, 0x00000020, 0)),
    (Tlp(Kind.DMWR, 0x0100, 0, 0x20, 16, 0xF, 0xF, bytes(64)), (0x5B000010, 0x010000FF, 0x00000020, 0)),
    (Tlp(Kind.MSG, 0x0100, 0, 0, code=0x20, routing=0b100), (0x34000000, 0x01000020, 0, 0)),
    (Tlp(Kind.MSGD, 0x0100, 0, 0xABCD0000_12345678, 1, data=bytes(4), code=0x7E, routing=0b010), (0x72000001, 0x0100007E, 0xABCD0000, 0x12345678)),
    (Tlp(Kind.CPL, 0x0100, 0x3AA, status=1, completer_id=0x0300, byte_count=4), (0x0A880000, 0x03002004, 0x0100AA00, 0)),
    (Tlp(Kind.CPLD, 0x0100, 5, 0, 16, data=bytes(64), completer_id=0x0300, byte_count=4096, lower_address=0x40),
     (0x4A000010, 0x03000000, 0x01000540, 0)),
    (Tlp(Kind.CPLD, 0x0100, 5, 0, 1, data=bytes(4), completer_id=3, byte_count=3, lower_address=1, byte_count_modified=True),
     (0x4A000001, 0x00031003, 0x01000501, 0)),
]


@pytest.mark.parametrize(("tlp", "dwords"), VECTORS, ids=lambda value: value.kind.name if isinstance(value, Tlp) else "")
def test_header_vectors(tlp, dwords):
    header = dwords[0] << 96 | dwords[1] << 64 | dwords[2] << 32 | dwords[3]
    assert f"{encode(tlp):032x}" == f"{header:032x}"
    assert decode(header, tlp.data) == tlp


@pytest.mark.parametrize("first", [0x80, 0xA0, 0x1F, 0x07, 0x22, 0x2A, 0x64], ids=hex)
def test_meaningless_types_are_refused(first):
    with pytest.raises(MalformedTlp, match="is not a TLP"):
        decode(first << 120)


def test_classes_and_credits():
    assert Tlp(Kind.MWR, address=0, length=5).data_credits == 2
    assert Tlp(Kind.MRD, length=1024).data_credits == 0
    assert Tlp(Kind.CAS, length=8).data_credits == 2
    assert {kind: Tlp(kind).flow for kind in (Kind.MSG, Kind.MSGD, Kind.MWR)} == dict.fromkeys((Kind.MSG, Kind.MSGD, Kind.MWR), FlowClass.POSTED)
    assert all(Tlp(kind).flow == FlowClass.NON_POSTED for kind in (Kind.MRD, Kind.IOWR, Kind.CFGWR0, Kind.SWAP, Kind.DMWR))
    assert all(Tlp(kind).flow == FlowClass.COMPLETION for kind in (Kind.CPL, Kind.CPLD, Kind.CPLLK, Kind.CPLDLK))


@pytest.mark.parametrize(("enables", "expected"), [
    # (First BE, Last BE, Length): first enabled byte, Byte Count of table 2-37
    ((0b1001, 0, 1), (0, 4)), ((0b0101, 0, 1), (0, 3)), ((0b1010, 0, 1), (1, 3)), ((0b0011, 0, 1), (0, 2)), ((0b0110, 0, 1), (1, 2)),
    ((0b1100, 0, 1), (2, 2)), ((0b0001, 0, 1), (0, 1)), ((0b1000, 0, 1), (3, 1)), ((0b0000, 0, 1), (0, 0)),
    ((0b1111, 0b1111, 4), (0, 16)), ((0b1111, 0b0111, 4), (0, 15)), ((0b1111, 0b0001, 4), (0, 13)), ((0b1000, 0b0001, 4), (3, 10)),
    ((0b0010, 0b0100, 2), (1, 6)),
])
def test_byte_count_table(enables, expected):
    first, last, length = enables
    start, size = request_bytes(Tlp(Kind.MRD, 0, 0, 0x100, length, first, last))
    assert (start - 0x100, size) == expected


def test_zero_length_read_answer():
    request = memory_read(0x0100, 0x1044, 0, 9)
    assert (request.length, request.first_be, request.last_be) == (1, 0, 0)
    (completion,) = read_completions(request, b"\xAA\xBB\xCC\xDD", 0x0300, 64, 256)
    assert (completion.byte_count, completion.lower_address, completion.length, completion.tag) == (1, 0x44, 1, 9)


def test_completions_copy_what_the_rules_say():
    request = Tlp(Kind.MRD, 0x0100, 0x2FE, 0x1000, 1, 0xF, 0, relaxed_ordering=True, id_ordering=True, no_snoop=True, traffic_class=3, hints=False)
    completion = answer(request, 0x0300, 4)
    assert (completion.requester_id, completion.tag, completion.traffic_class) == (0x0100, 0x2FE, 3)
    assert completion.relaxed_ordering and completion.no_snoop and not completion.id_ordering
    assert (completion.kind, completion.status, completion.byte_count, completion.lower_address) == (Kind.CPL, 4, 4, 0)


@given(st.integers(0, 1 << 40), st.integers(0, 4096))
def test_byte_range_is_inverse_of_request_bytes(address, size):
    size = min(size, 4096 - address % 4096)
    start, length, first, last = byte_range(address, size)
    tlp = Tlp(Kind.MRD, 0, 0, start, length, first, last)
    assert violations(tlp) == []
    assert request_bytes(tlp) == (address if size else start, size)


@given(st.integers(0, 1 << 33), st.binary(min_size=1, max_size=300))
def test_write_carries_exactly_its_bytes(address, data):
    data = data[:4096 - address % 4096]
    tlp = memory_write(1, address, data)
    assert violations(tlp) == []
    mask = byte_mask(expand_byte_enables(tlp), len(tlp.data))
    assert bytes(value for value, enabled in zip(tlp.data, mask, strict=True) if enabled) == data
    assert mask.index(1) == address - tlp.address


@given(st.integers(0, 20000), st.integers(0, 9000), st.sampled_from([128, 256, 512, 4096]))
def test_pieces_cover_without_crossing(address, size, limit):
    parts = list(pieces(address, size, limit))
    assert sum(count for _, count in parts) == size
    where = address
    for start, count in parts:
        assert start == where and count <= limit and start // 4096 == (start + max(count, 1) - 1) // 4096
        where += count


@given(st.integers(0, 4095), st.integers(1, 4096), st.sampled_from([64, 128]), st.sampled_from([128, 256, 512]), st.randoms(use_true_random=False))
def test_completion_cuts_obey_rcb_and_mps(offset, size, rcb, mps, random):
    size = min(size, 4096 - offset)
    for choose in (None, random.randrange):
        request = memory_read(1, 0x40000 + offset, size, 3)
        memory = bytes(index * 7 & 0xFF for index in range(4 * request.length))
        tlps = read_completions(request, memory, 9, rcb, mps, choose)
        assert b"".join(tlp.data for tlp in tlps)[offset & 3:][:size] == memory[offset & 3:][:size]
        assert all(violations(tlp, mps, rcb=rcb) == [] for tlp in tlps)
        assert all(tlp.lower_address % rcb == 0 for tlp in tlps[1:])
        assert tlps[0].byte_count == size
        if offset // rcb == (offset + size - 1) // rcb:
            assert len(tlps) == 1
    assert completion_cuts(0, 4096, 64, 4096) == [4096]


@st.composite
def any_tlp(draw):
    kind = draw(st.sampled_from(list(Kind)))
    tlp = Tlp(
        kind, draw(st.integers(0, 0xFFFF)), draw(st.integers(0, 0x3FF)), relaxed_ordering=draw(st.booleans()), id_ordering=draw(st.booleans()),
        no_snoop=draw(st.booleans()), traffic_class=draw(st.integers(0, 7)), poisoned=draw(st.booleans()), lightweight=draw(st.booleans()),
        prefix=draw(st.none() | st.integers(0x91000000, 0x910FFFFF)),
    )
    if tlp.has_data or not (tlp.is_completion or tlp.is_message):
        tlp.length = draw(st.integers(1, 1024))
    if tlp.has_data:
        tlp.data = draw(st.binary(min_size=4, max_size=4)) * tlp.length
    if tlp.is_completion:
        tlp.completer_id, tlp.status = draw(st.integers(0, 0xFFFF)), draw(st.integers(0, 7))
        tlp.byte_count, tlp.lower_address, tlp.byte_count_modified = draw(st.integers(1, 4096)), draw(st.integers(0, 127)), draw(st.booleans())
    elif tlp.is_message:
        tlp.code, tlp.routing, tlp.address = draw(st.integers(0, 255)), draw(st.integers(0, 5)), draw(st.integers(0, (1 << 64) - 1))
    else:
        tlp.first_be, tlp.last_be = draw(st.integers(0, 15)), draw(st.integers(0, 15))
        tlp.address = draw(st.integers(0, (1 << 32) - 1)) & ~3
        if tlp.is_memory:
            tlp.address |= draw(st.integers(0, (1 << 32) - 1)) << 32
            tlp.four_dw = tlp.address >= 1 << 32
            tlp.address_type, tlp.hints, tlp.processing_hint = draw(st.integers(0, 2)), draw(st.booleans()), draw(st.integers(0, 3))
    return tlp


@given(any_tlp())
def test_decode_is_inverse_of_encode(tlp):
    assert decode(encode(tlp), tlp.data, tlp.prefix) == tlp


@pytest.mark.parametrize(("tlp", "sentence"), [
    (Tlp(Kind.MRD, 0, 0, 0xF80, 64, 0xF, 0xF), "crosses a 4 KB boundary"),
    (Tlp(Kind.MRD, 0, 0, 0x1000, 2, 0xF, 0), "byte enables 0b1111, 0b0000 with Length 2"),
    (Tlp(Kind.MRD, 0, 0, 0x1000, 1, 0xF, 1), "Last BE 0b0001 with Length 1"),
    (Tlp(Kind.MRD, 0, 0, 0x1004, 2, 0b0101, 0b1111), "holes in byte enables"),
    (Tlp(Kind.MRD, 0, 0, 0x1000, 1, 0xF, 0, four_dw=True), "in a header of 4 dwords"),
    (Tlp(Kind.MRD, 0, 0, 1 << 32, 1, 0xF, 0, four_dw=False), "in a header of 3 dwords"),
    (Tlp(Kind.MRD, 0, 0, 0, 512, 0xF, 0xF), "exceeds the maximum of 1024"),
    (Tlp(Kind.MWR, 0, 0, 0, 128, 0xF, 0xF, bytes(512)), "payload of 512 bytes exceeds the maximum of 256"),
    (Tlp(Kind.MWR, 0, 0, 0, 2, 0xF, 0xF, bytes(4)), "payload has 4 bytes, Length says 8"),
    (Tlp(Kind.CAS, 0, 0, 0, 1, 0, 0, bytes(4)), "CAS of Length 1, allowed are 2, 4, 8"),
    (Tlp(Kind.FETCH_ADD, 0, 0, 4, 2, 0, 0, bytes(8)), "is not aligned to its operand"),
    (Tlp(Kind.CFGRD0, 0, 0, 4, 2, 0xF, 0), "configuration request of Length 2"),
    (Tlp(Kind.IORD, 0, 0, 4, 1, 0xF, 0, traffic_class=1), "with TC, attributes or AT"),
    (Tlp(Kind.CPLD, 0, 0, 0, 2, data=bytes(8), byte_count=4), "8 bytes of data for a byte count of 4"),
    (Tlp(Kind.CPLD, 0, 0, 0, 4, data=bytes(16), byte_count=64), "ends off the 64-byte boundary"),
    (Tlp(Kind.CPLD, 0, 0, 0, 1, data=bytes(4), byte_count=4, status=1), "completion with data and status 1"),
    (Tlp(Kind.MRD, 0, 0, 0, 1, 0xF, 0, prefix=0x11000000), "does not start with the Fmt of a prefix"),
], ids=lambda value: value if isinstance(value, str) else value.kind.name)
def test_violations_are_named(tlp, sentence):
    assert any(sentence in found for found in violations(tlp, mps=256, mrrs=1024)), violations(tlp, 256, 1024)


def test_compare_and_swap_at_the_end_of_a_page():
    assert violations(Tlp(Kind.CAS, 0, 0, 0xFF8, 4, 0, 0, bytes(16))) == []


def test_quad_word_may_have_holes():
    assert violations(Tlp(Kind.MWR, 0, 0, 0x1008, 2, 0b0101, 0b1010, bytes(8))) == []
