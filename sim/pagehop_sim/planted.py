"""Planted bugs: a copy of a component with one place of its source changed, and many of them in one design.

A test or proof that a planted bug survives does not guard that place. The change is text, so it stays as small as the bug, and a change that no
longer fits the source is an error, never a bug that silently is not there.
"""

import inspect
import re
import sys
import textwrap
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Const, Instance, Module, Shape, Signal
from amaranth.lib import wiring

__all__ = ["ACTIVE", "SELECTOR", "edited", "mergeable", "merged", "planted", "selected"]

#: Says which of the bugs of a design is there: the number that the plusarg ``+mutant=<number>`` gives, 0 (none) without it.
SELECTOR = """
module planted_bug(number);
  output reg [11:0] number;
  initial if (!$value$plusargs("mutant=%d", number)) number = 12'd0;
endmodule
"""
#: In a changed text: 1 when this bug is there. A change that does nothing without it can stand in the healthy design itself, also at the top.
ACTIVE = "planted_here"


@dataclass(frozen=True)
class _Edit:
    """How a broken class was made: of which one, by which changes of its text, of which other parts."""

    component: type
    changes: tuple[tuple[str, str], ...]
    parts: Mapping[str, object]

    @property
    def switched(self) -> bool:
        """The changes do nothing unless the bug is active."""
        return any(ACTIVE in new for _, new in self.changes)

    @property
    def usual(self) -> Mapping[str, object]:
        """What the names in the module of the component stand for."""
        return vars(sys.modules[self.component.__module__])


_EDITS: dict[type, _Edit] = {}
#: Python's parser counts its depth for all threads together, and fails when two of them parse deep sources.
_READS = threading.Lock()


def planted(component: type, old: str, new: str, **parts: object) -> Any:
    """Return ``component`` with ``old`` replaced by ``new`` in its source, where it must stand exactly once.

    ``parts`` replace names that the component's module uses, for a bug that sits in a part of it; ``old`` and ``new`` may be empty then.
    """
    return edited(component, *([(old, new)] if old else []), **parts)


def edited(component: type, *changes: tuple[str, str], **parts: object) -> Any:
    """As :func:`planted`, with any number of changes, made one after the other."""
    with _READS:
        source = textwrap.dedent(inspect.getsource(component))
    for old, new in changes:
        if source.count(old) != 1:
            raise ValueError(f"Source of {component.__name__} must contain {old!r} once, not {source.count(old)} times")
        source = source.replace(old, new)
    for name in parts:
        if not re.search(rf"\b{name}\b", source):
            raise ValueError(f"Source of {component.__name__} must use {name!r}, or another there changes nothing")
    namespace = {**vars(sys.modules[component.__module__]), ACTIVE: Const(1, 1), **parts}
    exec(compile(source, f"<bug planted in {component.__name__}>", "exec"), namespace)
    made = namespace[component.__name__]
    if isinstance(made, type):
        _EDITS[made] = _Edit(component, changes, parts)
    return made


def _inner(broken: type) -> dict[str, type] | None:
    """The broken parts of a class that is itself unchanged, or switched, by their names in its module; None when the class itself is another."""
    edit = _EDITS[broken]
    if edit.changes and not edit.switched:
        return None
    usual, found = edit.usual, {}
    for name, part in edit.parts.items():
        if part is usual.get(name) or (edit.switched and name not in usual):
            continue
        if not (isinstance(part, type) and part in _EDITS and _EDITS[part].component is usual.get(name)):
            return None
        found[name] = part
    return found


def mergeable(broken: type) -> bool:
    """Whether :func:`merged` takes a broken design: its bug can be switched, or sits in components that a healthy one can stand beside."""
    inner = _inner(broken)
    return inner is not None and all(mergeable(part) or issubclass(part, wiring.Component) for part in inner.values())


def merged(component: type, variants: Mapping[int, type], which: Signal) -> Any:
    """Return ``component`` with all bugs of ``variants`` in it; it behaves as the variant whose number is ``which``, and as itself for others.

    A broken part stands beside the healthy one, gets the same inputs, and drives the outputs when its number is chosen. It costs one elaboration and
    one compilation for all, and what a simulation of the larger design takes more.
    """
    own: dict[int, type] = {}
    changes: list[tuple[str, str]] = []
    extra: dict[str, object] = {}
    groups: dict[str, dict[int, type]] = {}
    for number, variant in variants.items():
        inner = _inner(variant)
        edit = _EDITS[variant]
        if inner is None:
            own[number] = variant
        elif edit.switched:
            name = f"{ACTIVE}_{number}"
            changes += [(old, new.replace(ACTIVE, name)) for old, new in edit.changes]
            extra |= {part: value for part, value in edit.parts.items() if part not in edit.usual} | {name: which == number}
        for name, part in (inner or {}).items():
            groups.setdefault(name, {})[number] = part
    usual = vars(sys.modules[component.__module__])
    parts = {name: merged(usual[name], group, which) for name, group in groups.items()}
    whole = edited(component, *changes, **extra, **parts) if parts or changes else component
    return _beside(whole, own, which) if own else whole


def selected(component: type, variants: Mapping[int, type]) -> Any:
    """As :func:`merged`, for a top: the number comes from the module ``planted_bug``, whose text is :data:`SELECTOR`."""
    which = Signal(12, name="planted_bug")

    def elaborate(self: Any, platform: object) -> Any:
        m = super(made, self).elaborate(platform)
        m.submodules.planted_bug = Instance("planted_bug", o_number=which)
        return m

    made: Any = type(component.__name__, (merged(component, variants, which),), {"elaborate": elaborate})
    return made


def _beside(healthy: Any, broken: Mapping[int, Any], which: Signal) -> Any:
    """Return a component like ``healthy`` that contains one and the ``broken`` ones, and chooses whose outputs count."""
    if not issubclass(healthy, wiring.Component):
        raise TypeError(f"Only a component can stand beside its like, and {healthy.__name__} is none")

    def remember(self: Any, *arguments: object, **named: object) -> None:
        self._made_of = arguments, named
        super(made, self).__init__(*arguments, **named)

    def elaborate(self: Any, _: object) -> Module:
        m = Module()
        arguments, named = self._made_of
        m.submodules.healthy = first = healthy(*arguments, **named)
        ends = {}
        for number, kind in broken.items():
            m.submodules[f"bug_{number}"] = one = kind(*arguments, **named)
            ends[number] = _flat(one)
        usual, mine = _flat(first), _flat(self)
        for path, (flow, port) in mine.items():
            if flow is wiring.In:
                m.d.comb += [end[path][1].eq(port) for end in (usual, *ends.values()) if path in end]
            else:
                m.d.comb += port.eq(usual[path][1])
        with m.Switch(which):
            for number, end in ends.items():
                with m.Case(number):
                    m.d.comb += [port.eq(end[path][1]) for path, (flow, port) in mine.items() if flow is wiring.Out]
        return m

    made: Any = type(healthy.__name__, (healthy,), {"__init__": remember, "elaborate": elaborate})
    return made


def _flat(component: Any) -> dict[tuple[str | int, ...], tuple[wiring.Flow, Any]]:
    """All ports of a component with their directions. Those of no bits carry nothing, and are left out."""
    return {path: (member.flow, value) for path, member, value in component.signature.flatten(component) if Shape.cast(member.shape).width}
