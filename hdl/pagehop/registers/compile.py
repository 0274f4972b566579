"""SystemRDL in, a plain description of one register map out.

What a block's ``registers.rdl`` says is read here and nowhere else: the register file, the driver's constants and the generated pages all start
from it. Only what the hardware below can build is accepted; anything else is refused with a sentence that names it.
"""

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from systemrdl import RDLCompileError, RDLCompiler
from systemrdl.messages import MessagePrinter, Severity
from systemrdl.node import AddrmapNode, FieldNode, MemNode, Node, RegfileNode, RegNode, RootNode

__all__ = ["EnumMap", "FieldMap", "RegisterEntry", "MemoryEntry", "RegisterMap", "WORD_BYTES", "elaborate", "compile_registers"]

#: Bytes of a word of the bus. Registers have 64 bits, or 32; each stands on a multiple of its size, and two may share a word.
WORD_BYTES = 8


@dataclass(frozen=True)
class EnumMap:
    """Values of an encoded field: (name, value, description) in the order of the file."""
    name: str
    members: tuple[tuple[str, int, str], ...]

    def as_enum(self) -> type[IntEnum]:
        """Python enum with the names in capitals, for use as constants in hardware."""
        return IntEnum(self.name, {name.upper(): value for name, value, _ in self.members})


@dataclass(frozen=True)
class FieldMap:
    """Bits ``low`` to ``low + width - 1`` of a register. ``reset`` is 0 where the hardware drives the field."""
    name: str
    low: int
    width: int
    reset: int
    software_writes: bool
    hardware_reads: bool
    hardware_writes: bool
    single_pulse: bool
    encode: EnumMap | None
    description: str

    @property
    def mask(self) -> int:
        """Bits of the register that belong to the field."""
        return ((1 << self.width) - 1) << self.low

    @property
    def shared(self) -> bool:
        """Software and hardware both write it: the hardware keeps it, and is told what software writes."""
        return self.software_writes and self.hardware_writes


@dataclass(frozen=True)
class RegisterEntry:
    """One register of ``size`` bytes at a byte ``offset``; ``name`` is its path with the parts joined by ``_``.

    One of an array, whose registers follow each other, has its ``index`` in the name, and knows the ``array``'s name and ``count``.
    """
    name: str
    title: str
    offset: int
    fields: tuple[FieldMap, ...]
    array: str = ""
    index: int = 0
    count: int = 1
    size: int = WORD_BYTES

    @property
    def shift(self) -> int:
        """Bit of the word at which the register begins."""
        return 8 * (self.offset % WORD_BYTES)

    @property
    def reset(self) -> int:
        """Value that a read returns after reset, fields of the hardware taken as 0."""
        return sum(field.reset << field.low for field in self.fields)


@dataclass(frozen=True)
class MemoryEntry:
    """An ``external mem`` of 64-bit words that the block serves itself."""
    name: str
    title: str
    offset: int
    words: int
    readable: bool
    writable: bool


@dataclass(frozen=True)
class RegisterMap:
    """A whole map: ``size`` bytes, registers and memories by rising offset, enums by name."""
    name: str
    title: str
    size: int
    registers: tuple[RegisterEntry, ...]
    memories: tuple[MemoryEntry, ...]
    enums: tuple[EnumMap, ...]

    def enum(self, name: str) -> type[IntEnum]:
        """Values of the ``enum`` of that name; only those that encode a field are known."""
        for enum in self.enums:
            if enum.name == name:
                return enum.as_enum()
        raise ValueError(f"Enum of register map {self.name!r} must be one of {', '.join(enum.name for enum in self.enums)}, not {name!r}")


class _Messages(MessagePrinter):
    """Keep what the compiler says, so that an error carries it instead of the terminal."""
    def __init__(self):
        self.lines: list[str] = []

    def print_message(self, severity, text, src_ref):
        if severity >= Severity.ERROR:
            line = getattr(src_ref, "line", None)
            self.lines.append(f"line {line}: {text}" if line else text)


def elaborate(rdl_path: Path | str) -> RootNode:
    """Compile a SystemRDL file; a mistake in it raises ``ValueError`` with the compiler's message."""
    path = Path(rdl_path)
    if not path.is_file():
        raise ValueError(f"Register description must be a SystemRDL file, and {str(path)!r} is not one")
    messages = _Messages()
    compiler = RDLCompiler(message_printer=messages)
    try:
        compiler.compile_file(str(path))
        return compiler.elaborate()
    except RDLCompileError as error:
        raise ValueError(f"Register description {str(path)!r} does not compile: {'; '.join(messages.lines[:-1] or [str(error)])}") from error


def compile_registers(rdl_path: Path | str) -> RegisterMap:
    """Read the map of a SystemRDL file."""
    top = elaborate(rdl_path).top
    registers: list[RegisterEntry] = []
    memories: list[MemoryEntry] = []
    for node in top.descendants(unroll=True):
        if isinstance(node, MemNode):
            memories.append(_memory(top, node))
        elif isinstance(node, RegNode):
            registers.append(_register(top, node))
        elif not isinstance(node, RegfileNode | AddrmapNode | FieldNode):
            raise ValueError(f"Register map may hold registers, register files and memories, not {node.get_path()!r}")
    enums = {field.encode.name: field.encode for register in registers for field in register.fields if field.encode}
    return RegisterMap(
        name=top.inst_name, title=top.get_property("name"), size=top.size,
        registers=tuple(sorted(registers, key=lambda entry: entry.offset)),
        memories=tuple(sorted(memories, key=lambda entry: entry.offset)),
        enums=tuple(enums[name] for name in sorted(enums)),
    )


def _path(top: AddrmapNode, node: Node) -> str:
    return node.get_rel_path(top, hier_separator="_", array_suffix="_{index:d}")


def _memory(top: AddrmapNode, node: MemNode) -> MemoryEntry:
    words, width, name = node.get_property("mementries"), node.get_property("memwidth"), _path(top, node)
    if width != 8 * WORD_BYTES or words & (words - 1) or node.absolute_address % (words * WORD_BYTES):
        raise ValueError(f"Memory {name!r} must have a power of two of 64-bit words and stand on a multiple of its size, "
                         f"not {words} words of {width} bits at {node.absolute_address:#x}")
    return MemoryEntry(name, node.get_property("name"), node.absolute_address, words, node.is_sw_readable, node.is_sw_writable)


def _register(top: AddrmapNode, node: RegNode) -> RegisterEntry:
    name, size = _path(top, node), node.get_property("regwidth") // 8
    if size not in (WORD_BYTES // 2, WORD_BYTES) or node.absolute_address % size:
        raise ValueError(f"Register {name!r} must have 64 or 32 bits and stand on a multiple of its size, "
                         f"not {8 * size} bits at {node.absolute_address:#x}")
    fields = tuple(_field(node, field) for field in node.fields())
    if not node.is_array:
        return RegisterEntry(name, node.get_property("name"), node.absolute_address, fields, size=size)
    if size != WORD_BYTES or len(node.array_dimensions) != 1 or node.array_stride != WORD_BYTES:
        raise ValueError(f"Array of registers {name!r} must have one dimension, 64 bits and a stride of {WORD_BYTES}, "
                         f"not {node.array_dimensions}, {8 * size} and {node.array_stride}")
    return RegisterEntry(name, node.get_property("name"), node.absolute_address, fields,
                         name.removesuffix(f"_{node.current_idx[0]}"), node.current_idx[0], node.array_dimensions[0])


def _field(register: RegNode, node: FieldNode) -> FieldMap:
    path = f"{register.get_path()}.{node.inst_name}"
    onread, onwrite = node.get_property("onread"), node.get_property("onwrite")
    # What software writes to a field that the hardware keeps means what the hardware makes of it; the file says so to the reader.
    if onread is not None or (onwrite is not None and not (node.is_sw_writable and node.is_hw_writable)):
        raise ValueError(f"Field {path!r} must have no side effect of reading, nor of writing unless hardware writes it too, not "
                         f"onread={onread} and onwrite={onwrite}")
    if not node.is_sw_readable:
        raise ValueError(f"Field {path!r} must be readable by software")
    reset = node.get_property("reset")
    if reset is None and not node.is_hw_writable:
        raise ValueError(f"Field {path!r} must have a reset value, for the hardware does not write it")
    return FieldMap(
        name=node.inst_name, low=node.low, width=node.width, reset=0 if node.is_hw_writable else int(reset),
        software_writes=node.is_sw_writable, hardware_reads=node.is_hw_readable, hardware_writes=node.is_hw_writable,
        single_pulse=bool(node.get_property("singlepulse")), encode=_encode(node), description=node.get_property("desc") or "",
    )


def _encode(node: FieldNode) -> EnumMap | None:
    encode = node.get_property("encode")
    if encode is None:
        return None
    return EnumMap(encode.type_name, tuple((member.name, int(member.value), member.rdl_desc or "") for member in encode))
