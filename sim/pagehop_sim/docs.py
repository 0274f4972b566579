"""Everything that is generated from the blocks' ``registers.rdl`` files.

``python -m pagehop_sim.docs`` writes the C headers and the HTML and Markdown pages to ``build/docs``, and brings the checked-in files up to date:
the register page ``docs/registers/<block>.md`` and the driver's constants ``tb/pagehop_tb/driver/<block>_registers.py``. With ``--check`` it writes
nothing and fails when a checked-in file is stale. The output depends on the .rdl files alone.
"""

import argparse
import difflib
import re
import shutil
import sys
import tempfile
import textwrap
import zlib
from pathlib import Path

from peakrdl_cheader.exporter import CHeaderExporter
from peakrdl_html import HTMLExporter
from peakrdl_markdown import MarkdownExporter

from pagehop.registers.compile import EnumMap, FieldMap, MemoryEntry, RegisterEntry, RegisterMap, compile_registers, elaborate

ROOT = Path(__file__).resolve().parents[2]
LINE = 150
PYTHON_HEADER = '''\
"""Registers of the block ``{name}``. Generated from its ``registers.rdl`` by ``make docs``; change that file, not this one.

Each register is a class: ``offset`` in bytes, ``reset`` as a word, and in capitals its fields.
"""
'''


def register_files(root: Path = ROOT) -> list[Path]:
    """Every ``registers.rdl`` of the hardware, by block name."""
    return sorted((root / "hdl" / "pagehop").glob("*/registers.rdl"))


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, LINE, initial_indent=f"{indent}#: ", subsequent_indent=f"{indent}#: ") if text else []


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _python_enum(enum: EnumMap) -> list[str]:
    lines = ["", "", f"class {_class_name(enum.name)}(IntEnum):", f'    """Values of fields that the register map calls ``{enum.name}``."""']
    for name, value, description in enum.members:
        lines += [*_comment(description, "    "), f"    {name.upper()} = {value}"]
    return lines


def _python_field(field: FieldMap) -> list[str]:
    description = field.description
    if field.encode:
        description = f"{description} Encoded as :class:`{_class_name(field.encode.name)}`.".strip()
    return [*_comment(description, "    "), f"    {field.name.upper()} = Field({field.low}, {field.width})"]


def _python_register(register: RegisterEntry) -> list[str]:
    written = any(field.software_writes for field in register.fields)
    name = register.array or register.name
    title = f"{name} (read and write)" if written else f"{name} (read only)"
    lines = ["", "", f"class {_class_name(name)}:", f'    """{title}"""']
    lines += [f"    offset = {register.offset:#x}", f"    reset = {register.reset:#x}"]
    if register.array:
        lines += [f"    #: All {register.count}; ``offset`` is that of the first.", f"    array = Memory({register.offset:#x}, {register.count})"]
    for field in register.fields:
        lines += _python_field(field)
    return lines


def _python_memory(memory: MemoryEntry) -> list[str]:
    return [*_comment(f"{memory.title}.", ""), f"{memory.name.upper()} = Memory({memory.offset:#x}, {memory.words})"]


def python_constants(registers: RegisterMap) -> str:
    """Python module with the map's offsets, fields and enums, for a driver that may not import the hardware."""
    lines = PYTHON_HEADER.format(name=registers.name).splitlines()
    in_rows = registers.memories or any(register.array for register in registers.registers)
    lines += [""] + (["from enum import IntEnum", ""] if registers.enums else [])
    lines += [f"from pagehop_tb.driver.register_fields import {'Field, Memory' if in_rows else 'Field'}", ""]
    lines += ["#: Bytes of the map.", f"SIZE = {registers.size:#x}"]
    for memory in registers.memories:
        lines += ["", *_python_memory(memory)]
    for enum in registers.enums:
        lines += _python_enum(enum)
    for register in registers.registers:
        lines += _python_register(register) if not register.index else []
    return "\n".join(lines) + "\n"


def markdown_page(rdl_path: Path) -> str:
    """Register page of a map. Of an array the first register is described; the table at the top has all their offsets."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.md"
        MarkdownExporter().export(elaborate(rdl_path).top, str(page))
        lines = [line.rstrip() for line in page.read_text(encoding="utf-8").splitlines()]
    sections = re.split(r"^(?=### )", "\n".join(lines), flags=re.MULTILINE)
    titles = [section.partition("\n")[0] for section in sections]
    kept = [section for before, title, section in zip(["", *titles], titles, sections, strict=False) if title != before]
    return "".join(kept).strip() + "\n"


def checked_in(root: Path = ROOT) -> dict[Path, str]:
    """Text that each checked-in generated file must have."""
    files = {}
    for rdl_path in register_files(root):
        block = rdl_path.parent.name
        files[root / "docs" / "registers" / f"{block}.md"] = markdown_page(rdl_path)
        files[root / "tb" / "pagehop_tb" / "driver" / f"{block}_registers.py"] = python_constants(compile_registers(rdl_path))
    return files


def stale(root: Path = ROOT) -> list[str]:
    """Name, with the first lines of the difference, of each checked-in file that is not what its .rdl says."""
    reports = []
    for path, expected in checked_in(root).items():
        found = path.read_text(encoding="utf-8") if path.is_file() else ""
        if found != expected:
            name = str(path.relative_to(root))
            difference = difflib.unified_diff(found.splitlines(), expected.splitlines(), name, "what registers.rdl says", lineterm="", n=0)
            reports.append("\n".join([f"{name} is stale; run `make docs`", *list(difference)[:12]]))
    return reports


def _write(path: Path, text: str) -> None:
    """Write a file in one step, and leave it alone when nothing changes."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def update(root: Path = ROOT) -> list[Path]:
    """Bring the checked-in files up to date; return their paths."""
    files = checked_in(root)
    for path, text in files.items():
        _write(path, text)
    return list(files)


def generate(output: Path, root: Path = ROOT) -> list[Path]:
    """Write C header, HTML and Markdown of every map below ``output``; return what was written."""
    written = []
    output.mkdir(parents=True, exist_ok=True)
    for rdl_path in register_files(root):
        block, top = rdl_path.parent.name, elaborate(rdl_path).top
        header, html, markdown = output / f"{block}.h", output / "html" / block, output / f"{block}.md"
        CHeaderExporter().export(top, path=str(header))
        shutil.rmtree(html, ignore_errors=True)
        HTMLExporter().export(top, str(html))
        _replace_time_stamp(html / "index.html", rdl_path)
        _write(markdown, markdown_page(rdl_path))
        written += [header, html, markdown]
    return written


def _replace_time_stamp(page: Path, rdl_path: Path) -> None:
    """The exporter makes browsers reload by the time of the build; the checksum of the .rdl does that too, and is always the same."""
    text = page.read_text(encoding="utf-8")
    stamp = re.search(r"BUILD_TS = (\d+);", text)
    if stamp:
        page.write_text(text.replace(stamp[1], str(zlib.crc32(rdl_path.read_bytes()))), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Command line: 0 when all is up to date, 1 when ``--check`` found a stale file."""
    parser = argparse.ArgumentParser(prog="python -m pagehop_sim.docs", description="Generate register pages, C headers and driver constants.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a checked-in file is stale")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "docs", help="folder for the generated pages (default: build/docs)")
    options = parser.parse_args(arguments)
    if options.check:
        reports = stale()
        print("\n".join(reports) if reports else "generated files are up to date")
        return 1 if reports else 0
    for path in [*update(), *generate(options.output)]:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
