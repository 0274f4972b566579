"""What is generated from the .rdl files: it is up to date, always the same, and says what the .rdl says."""

import re
import subprocess
import time
from pathlib import Path

import pytest

import pagehop.interposer
from pagehop.registers.compile import compile_registers
from pagehop_sim import docs
from pagehop_tb.driver import interposer_registers as names
from pagehop_tb.driver.register_fields import Field, Memory

RDL = Path(pagehop.interposer.__file__).parent / "registers.rdl"


def test_checked_in_files_are_up_to_date():
    assert docs.stale() == []


def test_constants_agree_with_the_text_of_the_rdl():
    """Read the .rdl as text, by its regular form, and compare each offset and each field range that stands there."""
    text = re.sub(r"//.*", "", RDL.read_text())
    found = {name: int(offset, 16) for name, offset in re.findall(r"(\w+)\s+@\s+(0x[0-9A-Fa-f]+)\s*;", text)}
    compared = 0
    for name, offset in found.items():
        constant = getattr(names, name.upper(), None) or getattr(names, "".join(part.capitalize() for part in name.split("_")), None)
        if constant is not None:
            assert constant.offset == offset, name
            compared += 1
    assert compared > 30
    # Members of the aperture, whose offsets are relative.
    assert (names.ApertureABase.offset, names.ApertureAOffset.offset, names.ApertureBPages.offset) == (0x50, 0x60, 0x70)
    fields = re.findall(r"(\w+)\[(\d+):(\d+)\]", text)
    widths = {(name.upper(), int(low), int(high) - int(low) + 1) for name, high, low in fields}
    generated = {
        (name, field.low, field.width)
        for register in vars(names).values() if isinstance(register, type) for name, field in vars(register).items() if isinstance(field, Field)
    }
    assert generated == widths


def test_a_changed_map_makes_the_checked_in_files_stale(tmp_path):
    folder = tmp_path / "hdl" / "pagehop" / "interposer"
    folder.mkdir(parents=True)
    (folder / "registers.rdl").write_text(RDL.read_text())
    assert len(docs.stale(tmp_path)) == 2
    docs.update(tmp_path)
    assert docs.stale(tmp_path) == []
    (folder / "registers.rdl").write_text(RDL.read_text().replace("version[47:32] = 1", "version[47:32] = 77"))
    reports = docs.stale(tmp_path)
    assert [report.split(" ")[0] for report in reports] == ["docs/registers/interposer.md", "tb/pagehop_tb/driver/interposer_registers.py"]
    assert "run `make docs`" in reports[1]


def test_pages_are_always_the_same_and_the_header_compiles(tmp_path):
    def pages(name):
        docs.generate(tmp_path / name)
        return {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}

    one = pages("one")
    time.sleep(1.1)  # the exporters' time stamps have a resolution of one second
    assert one == pages("two")
    assert {Path("interposer.h"), Path("interposer.md"), Path("html/interposer/index.html")} <= set(one)
    program = tmp_path / "program.cpp"
    program.write_text('#include "one/interposer.h"\nstatic_assert(INTERPOSER__MOVE_COMMAND__PAGE_SIZE_bp == 16);\n')
    subprocess.run(["g++", "-fsyntax-only", "-Wall", "-Werror", str(program)], check=True)


def test_fields_pack_and_unpack():
    field = Field(8, 4)
    assert (field.mask, field.of(9), field.get(0xABC)) == (0xF00, 0x900, 0xA)
    with pytest.raises(ValueError, match=r"^Value of a field of 4 bits must be from 0 to 15, not 16$"):
        field.of(16)
    assert Memory(0x100, 4).at(3) == 0x118
    with pytest.raises(ValueError, match=r"^Index into a memory of 4 words must be from 0 to 3, not 4$"):
        Memory(0x100, 4).at(4)


def test_enums_of_the_map():
    registers = compile_registers(RDL)
    assert registers.enum("move_error").HOLD_TIMEOUT == names.MoveError.HOLD_TIMEOUT == 12
    known = "log_error, move_error, move_mode, move_phase, slide_error, switchover_error"
    with pytest.raises(ValueError, match=rf"^Enum of register map 'interposer' must be one of {known}, not 'colour'$"):
        registers.enum("colour")


_FIELD = "addrmap x {{ default regwidth = 64; reg {{ field {{ {} }} a{}; }} one; }};"


@pytest.mark.parametrize(("text", "sentence"), [
    ("addrmap x { reg { field {} a } one; };",
     r"^Register description '.*' does not compile: line 1: "),
    ("addrmap x { default regwidth = 16; reg { field {} a = 0; } one; };",
     r"^Register 'one' must have 64 or 32 bits and stand on a multiple of its size, not 16 bits at 0x0$"),
    ("addrmap x { default regwidth = 64; reg { field {} a = 0; } one @ 4; };",
     r"^Register 'one' must have 64 or 32 bits and stand on a multiple of its size, not 64 bits at 0x4$"),
    ("addrmap x { default regwidth = 32; reg { field {} a = 0; } one[2]; };",
     r"^Array of registers 'one_0' must have one dimension, 64 bits and a stride of 8, not \[2\], 32 and 4$"),
    (_FIELD.format("sw = rw; hw = r; onwrite = woclr;", " = 0"),
     r"^Field 'x\.one\.a' must have no side effect of reading, nor of writing unless hardware writes it too, not "
     r"onread=None and onwrite=OnWriteType.woclr$"),
    (_FIELD.format("sw = w; hw = r;", " = 0"),
     r"^Field 'x\.one\.a' must be readable by software$"),
    (_FIELD.format("sw = rw; hw = r;", ""),
     r"^Field 'x\.one\.a' must have a reset value, for the hardware does not write it$"),
    (_FIELD.format("sw = r; hw = w; onread = rclr;", ""),
     r"^Field 'x\.one\.a' must have no side effect of reading, nor of writing unless hardware writes it too, not onread="),
    ("addrmap x { external mem { mementries = 3; memwidth = 64; } m @ 0; };",
     r"^Memory 'm' must have a power of two of 64-bit words .*, not 3 words of 64 bits"),
])
def test_maps_that_cannot_be_built_are_refused(tmp_path, text, sentence):
    path = tmp_path / "registers.rdl"
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        compile_registers(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^Register description must be a SystemRDL file, and '.*none\.rdl' is not one$"):
        compile_registers(tmp_path / "none.rdl")
