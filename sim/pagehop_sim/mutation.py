"""Mutations of the generated Verilog: one operator, condition or register update changed, many in one design, one of them switched on at a time.

A design with its mutations is compiled once. The plusarg ``+mutant=<number>`` chooses which of them is active; without it, or with 0, the design is
the one that was given.
"""

import hashlib
import linecache
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pagehop_sim.files import content_hash

__all__ = ["Mutation", "candidates", "sample", "with_mutations"]

#: What an operator of Verilog can become. ``left`` and ``right`` keep one operand: a condition that was left out.
BINARY = {
    "&": ("|", "left", "right"), "|": ("&", "left", "right"), "^": ("|",), "&&": ("||", "left", "right"), "||": ("&&", "left", "right"),
    "==": ("!=",), "!=": ("==",), "<": (">=", "<="), ">=": ("<", ">"), ">": ("<=", ">="), "<=": (">", "<"), "+": ("-",), "-": ("+",),
}
UNARY = ("~", "!", "|", "&")
ATTRIBUTE = re.compile(r"\(\*.*?\*\) ?")
SOURCE = re.compile(r'src = "(?:[^"|]*/)?(hdl/pagehop/[\w/]+\.py:\d+)')
MODULE = re.compile(r"^module \\?(\S+) ?\(")
ASSIGN = re.compile(r"^(  assign (\S+(?: \[[\d:]+\]|\[[\d:]+\])?) = )(.*);$")
UPDATE = re.compile(r"^(    )(\\?[\w.$]+) +<= (.*);$")
#: What a revision of the hardware numbers anew: wires without names, instances of a module.
NUMBERED = re.compile(r"_\d+_|\$\d+")
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutation:
    """One place of a design that can be changed: ``line`` of the text (from 0), the ``module``, the ``source`` that made it, and both texts."""

    line: int
    module: str
    source: str
    before: str
    after: str
    kind: str

    @property
    def code(self) -> str:
        """What stands at the source, or where it says nothing."""
        path, _, number = self.source.rpartition(":")
        return (linecache.getline(str(ROOT / path), int(number)).strip() if path else "") or self.source

    @property
    def place(self) -> str:
        """What made it: the same after an edit of other lines. What has no source is of its module."""
        return f"{self.source.partition(':')[0]}: {self.code}" if self.source else NUMBERED.sub("", self.module)

    @property
    def variant(self) -> str:
        """Which of the changes of its place it is: the same after an edit of other lines."""
        return NUMBERED.sub("", f"{self.module}: {self.kind}: {self.before} -> {self.after}")

    @property
    def identity(self) -> str:
        """A short name for its place and variant."""
        return content_hash(self.place, self.variant)


def candidates(verilog: str, core: re.Pattern[str]) -> list[Mutation]:
    """All mutations of the modules whose name ``core`` matches, in the order of the text. ``verilog`` has source attributes."""
    found: list[Mutation] = []
    module, source = "", ""
    for number, line in enumerate(verilog.splitlines()):
        begins = MODULE.match(line)
        if begins:
            module, source = begins[1], ""
        at = SOURCE.search(line)
        if not core.search(module):
            continue
        found += _of_line(number, line, module, at[1] if at else source)
        # An attribute on a line of its own belongs to what follows it.
        if at and line.lstrip().startswith("(*"):
            source = at[1]
        elif not line.lstrip().startswith(("(*", "always", "if")):
            source = ""
    return found


def _of_line(number: int, line: str, module: str, source: str) -> Iterator[Mutation]:
    plain = ATTRIBUTE.sub("", line)
    update = UPDATE.match(plain)
    if update:
        name = update[2] + (" " if update[2].startswith("\\") else "")
        yield Mutation(number, module, source, f"{name} <= {update[3]}", f"{name} <= {name}", "update dropped")
        return
    assign = ASSIGN.match(plain)
    if not assign or "rst ?" in plain:
        return
    for expression, kind in _changed(assign[3].strip()):
        yield Mutation(number, module, source, f"{assign[2]} = {assign[3].strip()}", f"{assign[2]} = {expression}", kind)


def _changed(expression: str) -> Iterator[tuple[str, str]]:
    """Variants of an expression of one operator, as Yosys writes them, and what was done."""
    parts = _split(expression)
    if len(parts) == 5 and parts[1] == "?" and parts[3] == ":":
        yield f"{parts[0]} ? {parts[4]} : {parts[2]}", "arms swapped"
    elif len(parts) == 3 and parts[1] in BINARY:
        for other in BINARY[parts[1]]:
            if other in ("left", "right"):
                yield parts[0] if other == "left" else parts[2], f"{other} side of {parts[1]} only"
            else:
                yield f"{parts[0]} {other} {parts[2]}", f"{parts[1]} for {other}"
    elif len(parts) == 2 and parts[0] in UNARY:
        other = {"|": "&", "&": "|"}.get(parts[0], "")
        yield f"{other} {parts[1]}".strip(), f"{parts[0]} for {other or 'nothing'}"


def _split(expression: str) -> list[str]:
    """Operands and operators at the outermost level: Yosys puts a blank around every operator and none into an operand outside brackets."""
    words: list[str] = []
    depth = 0
    for word in expression.split():
        # An escaped name ends with a blank, and its index follows: `\name [3:0]`.
        if depth or (words and word.startswith("[")):
            words[-1] += f" {word}"
        else:
            words.append(word)
        depth += sum(map(word.count, "{([")) - sum(map(word.count, "})]"))
    return words


def sample(found: Sequence[Mutation], count: int, seed: int) -> list[Mutation]:
    """``count`` mutations by ``seed``, each of another place, in the order of the text. All places when there are fewer.

    Places are the lines of the sources: by lines of Verilog, decoders of many bits would be most of the sample. Places and what is changed there are
    ordered by a hash of their text, so that an edit of the hardware leaves all of the sample but what it edits.
    """
    def rank(text: str) -> bytes:
        return hashlib.sha256(f"{seed} {text}".encode()).digest()

    by_place: dict[str, Mutation] = {}
    for mutation in found:
        other = by_place.get(mutation.place)
        if other is None or rank(mutation.variant) < rank(other.variant):
            by_place[mutation.place] = mutation
    return sorted((by_place[place] for place in sorted(by_place, key=rank)[:count]), key=lambda mutation: mutation.line)


def with_mutations(verilog: str, chosen: Sequence[Mutation], top: str) -> str:
    """The design with these mutations built in; number 1 is the first of them."""
    lines = [ATTRIBUTE.sub("", line) for line in verilog.splitlines()]
    for number, mutation in enumerate(chosen, 1):
        active = f"{top}.mutant == 12'd{number}"
        plain = lines[mutation.line]
        match = UPDATE.match(plain)
        if match:
            lines[mutation.line] = f"    if (!({active})) {plain.strip()}"
        else:
            match = ASSIGN.match(plain)
            assert match is not None
            # The blanks end escaped names.
            after = mutation.after.split(" = ", 1)[1]
            lines[mutation.line] = f"{match[1]}({active}) ? ( {after} ) : ( {match[3]} );"
    switch = ["  reg [11:0] mutant /*verilator public_flat_rd*/;", '  initial if (!$value$plusargs("mutant=%d", mutant)) mutant = 12\'d0;']
    at = next(index for index, line in enumerate(lines) if (match := MODULE.match(line)) and match[1] == top)
    # The header of a module may take several lines; its declarations begin after the first semicolon.
    while not lines[at].rstrip().endswith(";"):
        at += 1
    return "\n".join([*lines[:at + 1], *switch, *lines[at + 1:], ""])
