"""Planted bugs: a copy of a component with one place of its source changed.

A test or proof that a planted bug survives does not guard that place. The change is text, so it stays as small as the bug, and a change that no
longer fits the source is an error, never a bug that silently is not there.
"""

import inspect
import sys
import textwrap
from typing import Any

__all__ = ["edited", "planted"]


def planted(component: type, old: str, new: str, **parts: object) -> Any:
    """Return ``component`` with ``old`` replaced by ``new`` in its source, where it must stand exactly once.

    ``parts`` replace names that the component's module uses, for a bug that sits in a part of it; ``old`` and ``new`` may be empty then.
    """
    return edited(component, *([(old, new)] if old else []), **parts)


def edited(component: type, *changes: tuple[str, str], **parts: object) -> Any:
    """As :func:`planted`, with any number of changes, made one after the other."""
    source = textwrap.dedent(inspect.getsource(component))
    for old, new in changes:
        if source.count(old) != 1:
            raise ValueError(f"Source of {component.__name__} must contain {old!r} once, not {source.count(old)} times")
        source = source.replace(old, new)
    namespace = {**vars(sys.modules[component.__module__]), **parts}
    exec(compile(source, f"<bug planted in {component.__name__}>", "exec"), namespace)
    return namespace[component.__name__]
