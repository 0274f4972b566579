"""The form in which Icarus is quickest: one driver for all bits of a wire, one block for the registers of a module.

Icarus resolves a wire that is driven in parts with strengths, bit by bit, at each change of a part: this was half the time of a simulation. Yosys has
``splitnets -driver`` for it, which the small Yosys of Amaranth lacks, and which takes away the names of the wires that it splits. A block of its own
for each register was another sixth: Icarus wakes each block at each edge.

Enables instead of multiplexers that feed back (``opt_dff``) cost more than they save: they take wide registers apart.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["gathered", "undivided"]

TOKEN = re.compile(r"[{}]|\[\d+(?::\d+)?\]|\d+'[01xzm-]*|[\\$]\S+")
CONNECT = re.compile(r"  connect (\{[^}]*\}|\S+(?: \[[\d:]+\])?) (.*)")
MODULE = re.compile(r"^module .*?^endmodule\n", re.MULTILINE | re.DOTALL)
UPDATE = re.compile(r"^  always @\(posedge (\S+)\)\n(    (?!if\b).*;\n)", re.MULTILINE)
#: Outputs of Yosys' own cells: those of memories, and of all others.
MEMORY = {"$memrd": {"\\DATA"}, "$memrd_v2": {"\\DATA"}, "$memwr": set[str](), "$memwr_v2": set[str]()}
RESULTS = {"\\Y", "\\Q"}


class _Bits(NamedTuple):
    """``width`` bits from ``low`` on of a wire, or of a constant: ``name`` is then its digits behind a quote."""

    name: str
    low: int
    width: int

    def __str__(self) -> str:
        if self.name[0] == "'":
            end = len(self.name) - self.low
            return f"{self.width}'{self.name[end - self.width:end]}"
        return f"{self.name} [{self.low + self.width - 1}:{self.low}]"


class _Driver(NamedTuple):
    low: int
    width: int
    source: list[_Bits]


def undivided(design: str) -> str:
    """Return ``design``, RTLIL without processes, with the same function, names and initial values, in which no wire is driven in parts.

    What drove a part drives a new wire instead, and one connection puts the parts together. A wire with bits that nothing drives stays as it is.
    """
    before, *modules = re.split(r"^(?=module )", design, flags=re.MULTILINE)
    texts = [module.splitlines() for module in modules]
    outputs = {lines[0].split()[1]: {line.split()[-1] for line in lines if line.startswith("  wire ") and " output " in line} for lines in texts}
    return before + "".join(f"{line}\n" for lines in texts for line in _Module(lines, MEMORY | outputs).rewritten())


class _Module:
    def __init__(self, lines: list[str], outputs: dict[str, set[str]]) -> None:
        self._lines, self._outputs = lines, outputs
        self._widths: dict[str, int] = {}
        self._initial: dict[str, str] = {}
        self._parts: list[str] = []
        self._count = 0
        self._drivers: dict[str, list[_Driver]] = {}
        initial = None
        for line in lines:
            if line.startswith("  attribute \\init "):
                value = line.split()[-1]
                # Yosys writes 32 bits as a number.
                initial = value.partition("'")[2] if "'" in value else f"{int(value) & 0xFFFFFFFF:032b}"
            elif line.startswith("  wire "):
                words = line.split()
                self._widths[words[-1]] = int(words[words.index("width") + 1]) if "width" in words else 1
                if initial is not None:
                    self._initial[words[-1]], initial = initial, None

    def rewritten(self) -> Iterator[str]:
        """The lines of the module in their new form."""
        body = list(self._driven())
        connections = [line for name, drivers in self._drivers.items() for line in self._together(name, drivers)]
        yield body[0]
        yield from self._parts
        attributes: list[str] = []
        for line in body[1:]:
            if line.startswith("  attribute "):
                attributes.append(line)
                continue
            # The initial value went to the parts.
            lost = line.startswith("  wire ") and line.split()[-1] in self._drivers
            yield from (attribute for attribute in attributes if not (lost and attribute.startswith("  attribute \\init ")))
            attributes.clear()
            if line == "end":
                yield from connections
            yield line
        yield from attributes

    def _driven(self) -> Iterator[str]:
        """The lines, with new wires in the places of parts, and without the connections of parts."""
        outputs = RESULTS
        for line in self._lines:
            if line.startswith("  cell "):
                outputs = self._outputs.get(line.split()[1], RESULTS)
            elif line.startswith("    connect "):
                _, port, text = line.split(None, 2)
                target = self._bits(text) if port in outputs else []
                if self._divided(target):
                    line = f"    connect {port} {self._part(target)}"
            elif line.startswith("  connect "):
                sides = CONNECT.fullmatch(line)
                assert sides is not None, line
                target = self._bits(sides[1])
                if self._divided(target):
                    self._drive(target, self._bits(sides[2]))
                    continue
            yield line

    def _bits(self, text: str) -> list[_Bits]:
        """The pieces of a signal, most significant first."""
        found: list[_Bits] = []
        for token in TOKEN.findall(text):
            if token[0] == "[":
                high, _, low = token[1:-1].partition(":")
                inner = found.pop()
                found.append(_Bits(inner.name, inner.low + int(low or high), int(high) - int(low or high) + 1))
            elif token[0] in "\\$":
                found.append(_Bits(token, 0, self._widths[token]))
            elif token not in "{}":
                width, quote, digits = token.partition("'")
                assert len(digits) == int(width), f"{token} is no constant with all its digits"
                found.append(_Bits(quote + digits, 0, int(width)))
        return found

    def _divided(self, target: list[_Bits]) -> bool:
        return len(target) > 1 or any(bits.width != self._widths[bits.name] for bits in target)

    def _part(self, target: list[_Bits]) -> str:
        """Return a new wire that drives ``target`` and begins with its initial value."""
        name, width = f"$part${self._count}", sum(bits.width for bits in target)
        self._count += 1
        digits = "".join(str(bits._replace(name="'" + self._initial.get(bits.name, "x" * self._widths[bits.name]))).partition("'")[2]
                         for bits in target)
        if digits.strip("x"):
            self._parts.append(f"  attribute \\init {width}'{digits}")
        self._parts.append(f"  wire width {width} {name}")
        self._drive(target, [_Bits(name, 0, width)])
        return name

    def _drive(self, target: list[_Bits], source: list[_Bits]) -> None:
        at = 0
        for bits in reversed(target):
            self._drivers.setdefault(bits.name, []).append(_Driver(bits.low, bits.width, _cut(source, at, bits.width)))
            at += bits.width

    def _together(self, name: str, drivers: list[_Driver]) -> list[str]:
        if sum(driver.width for driver in drivers) < self._widths[name]:
            return [f"  connect {_Bits(name, driver.low, driver.width)} {_text(driver.source)}" for driver in drivers]
        ordered = sorted(drivers, key=lambda driver: driver.low, reverse=True)
        return [f"  connect {name} {_text([bits for driver in ordered for bits in driver.source])}"]


def _cut(source: list[_Bits], low: int, width: int) -> list[_Bits]:
    """Bits ``low`` and up of what ``source`` puts together."""
    found: list[_Bits] = []
    at = 0
    for bits in reversed(source):
        start, end = max(low, at), min(low + width, at + bits.width)
        if start < end:
            found.insert(0, _Bits(bits.name, bits.low + start - at, end - start))
        at += bits.width
    return found


def _text(source: list[_Bits]) -> str:
    return "{ " + " ".join(map(str, source)) + " }"


def gathered(text: str) -> str:
    """Return Verilog of Yosys in which the registers of a module that a clock updates stand in one block. It must have no attributes."""
    return MODULE.sub(_gathered, text)


def _gathered(module: re.Match[str]) -> str:
    updates: dict[str, list[str]] = {}

    def take(update: re.Match[str]) -> str:
        updates.setdefault(update[1], []).append(update[2])
        return ""

    rest = UPDATE.sub(take, module[0]).removesuffix("endmodule\n")
    blocks = "".join(f"  always @(posedge {clock}) begin\n{''.join(lines)}  end\n" for clock, lines in updates.items())
    return f"{rest}{blocks}endmodule\n"
