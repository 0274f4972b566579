"""The hardware's names of errors and phases are those of the register map."""

import pytest

from pagehop.interposer.control import REGISTERS
from pagehop.interposer.move_check import MoveError, MoveMode
from pagehop.interposer.slide import SlideError
from pagehop.interposer.slot import MovePhase
from pagehop.interposer.switchover import SwitchoverError
from pagehop.registers.compile import compile_registers


@pytest.mark.parametrize(("hardware", "name"), [
    (MoveError, "move_error"), (MoveMode, "move_mode"), (MovePhase, "move_phase"), (SlideError, "slide_error"),
    (SwitchoverError, "switchover_error")])
def test_values_are_those_of_the_register_map(hardware: type, name: str) -> None:
    described = {member.name.upper(): member.value for member in compile_registers(REGISTERS).enum(name)}
    assert {member.name: member.value for member in hardware} == described
