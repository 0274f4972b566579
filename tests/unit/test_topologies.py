# amaranth: UnusedElaboratable=no
"""What the parameters of topologies refuse, what their pins mean, and how a run with one host is judged."""

import re
from dataclasses import replace

import pytest
from test_checker import BASE, DEVICE, OFFSET, PAGE, History, dword

from pagehop.interposer.adjuster import AddressAdjuster
from pagehop.interposer.layouts import Aperture
from pagehop.interposer.top import Interposer
from pagehop_tb.checker.check import check
from pagehop_tb.pins import packed_aperture


@pytest.mark.parametrize(("made", "parameters", "says"), [
    (Interposer, {"hosts": 3}, "Hosts must be 1 or 2, not 3"),
    (Interposer, {"hosts": 1, "in_row": True}, "A second interposer in a row stands in the link to Host B, so hosts must be 2, not 1"),
    (Interposer, {"log_tables": "x86"}, "Page tables of the dirty log must be one of none, riscv, vtd, not 'x86'"),
    (AddressAdjuster, {"tags": 3}, "Tags must be 0, or a power of two from 2 to 64, not 3"),
    (AddressAdjuster, {"data_bytes": 8}, "Beat width must be one of 16, 32, 64, 128 bytes, not 8"),
])
def test_bad_parameters_are_refused(made, parameters, says):
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        made(**parameters)


def test_the_host_that_is_not_there_has_no_port():
    assert "host_b" not in Interposer(hosts=1).signature.members and "adjust" not in Interposer().signature.members
    assert "adjust" in Interposer(in_row=True).signature.members


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("data_bytes", [16, 32, 64, 128])
def test_there_is_room_for_answers_with_any_width(data_bytes, hosts):
    made = Interposer(data_bytes, hosts=hosts)
    assert all(made._lines(depth) > 0 for depth in (*made.sizes.host_ingress[1:3], made.sizes.device_ingress[1]))


def test_an_aperture_is_packed_as_the_hardware_has_it():
    packed = Aperture.from_bits(packed_aperture(0x12_3000, 4, -PAGE))
    assert (packed.range.base, packed.range.limit, packed.offset) == (0x123, 0x127, (1 << 64) - PAGE)


def judged(place, order=(0, 1)):
    """Two writes of the device to a page, performed in this order at the near (0) or far (1) place of one host."""
    history = History(global_order=True)
    history.config = replace(history.config, hosts=1)
    for number in (0, 1):
        history.write(4 * number, dword(number))
    for number in order:
        history.log.performed_write(history.tick(), 0, BASE + 4 * number + (OFFSET if place else 0), dword(number), None, DEVICE, "link")
    return {name for name, found in check(history.log, history.config, None).violations.items() if found}


@pytest.mark.hazard("I1", "I5")
def test_one_host_has_two_places():
    assert judged(0) == set()
    assert "misdirected" in judged(1)
    assert judged(0, (1, 0)) == {"reordered"}


@pytest.mark.hazard("I4")
def test_the_cpu_of_one_host_reads_both_places():
    config = replace(History().config, hosts=1)
    assert config.of_cpu(0, BASE + PAGE) == (0, PAGE)
    assert config.of_cpu(0, BASE + OFFSET + PAGE) == (1, PAGE) and not config.is_remote(0, BASE + OFFSET + PAGE)
