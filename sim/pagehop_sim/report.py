"""A run's result for people: on the terminal, and as one HTML page that needs nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table

from pagehop_sim.files import write_text

__all__ = ["print_result", "rows", "write_page"]


def number(value: Any) -> str:
    """Return a value as a reader wants it: thousands apart by commas, unknown as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or value == int(value):
        return f"{int(value):,}"
    return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.1f}".replace(",", " ")


def rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of a report: what, and its numbers."""
    lines: list[tuple[str, str]] = []
    for section in ("pages", "accesses", "checked", "violations", "move_cycles", "hold_cycles", "wire_share", "fences", "dirty"):
        lines.append((section.replace("_", " "), _pairs(result[section])))
    for name, values in result["latency_cycles"].items():
        lines.append((f"latency cycles, {name.replace('_', ' ')}", _pairs(values) if isinstance(values, Mapping) else number(values)))
    for name, entry in result["values"].items():
        bound = "" if entry["limit"] is None else f", limit {'≤' if entry['better'] == 'lower' else '≥'} {number(entry['limit'])}"
        lines.append((name.replace("_", " "), f"{number(entry['value'])} {entry['unit']}{bound}"))
    lines.append(("cycles", f"{number(result['cycles'])} of {number(result['clock_ns'])} ns, {number(result['cycles_per_second'])} a second"))
    lines.append(("wall seconds", number(result["wall_seconds"])))
    return lines


def _pairs(values: Mapping[str, Any]) -> str:
    if all(value is None for value in values.values()):
        return "–"
    if all(value == 0 for value in values.values()):
        return "all 0"
    return ", ".join(f"{number(value)} {name.replace('_', ' ')}" for name, value in values.items())


def title(result: Mapping[str, Any]) -> str:
    """Return one line that says which run this was."""
    parts = [result["scenario"], result["simulator"], f"seed {result['seed']}", result["trace"] and f"trace {result['trace']}"]
    return " · ".join(part for part in parts if part)


def litmus_lines(result: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Return a line for each litmus case: its name, rounds, kinds of outcomes, the variants in which the forbidden one was seen, and must be."""
    lines = []
    for name, variants in result["litmus"].items():
        kinds = {outcome for found in variants.values() for outcome in found["outcomes"]}
        seen = ", ".join(f"{label}: {found['forbidden']}" for label, found in variants.items() if found["forbidden"])
        expected = ", ".join(label for label, found in variants.items() if found["expected"] == "seen")
        if any(found["expected"] == "any" for found in variants.values()):
            expected = "nothing is promised"
        lines.append((name, number(sum(found["rounds"] for found in variants.values())), str(len(kinds)), seen or "0", expected or "never"))
    return lines


def print_litmus(console: Console, result: Mapping[str, Any]) -> None:
    """Print what litmus cases saw, where a run had any."""
    table = Table("case", "rounds", "outcomes", "forbidden seen", "expected", title="litmus; all outcomes by placement are in result.json")
    for line in litmus_lines(result):
        table.add_row(*line)
    if table.row_count:
        console.print(table)


def print_result(console: Console, result: Mapping[str, Any], reasons: Sequence[str], folder: Path) -> None:
    """Print a run's numbers and its verdict."""
    print_litmus(console, result)
    table = Table.grid(padding=(0, 2))
    for what, numbers in rows(result):
        table.add_row(f"[dim]{what}", numbers)
    moved = f"{number(result['pages']['moved'])} pages moved"
    last: RenderableType = f"[bold green]good[/]: {moved}; no access lost, stale or out of order" if not reasons else Group(
        "[bold red]not good[/]", *(f"  {reason}" for reason in reasons))
    console.print(Panel(Group(table, "", last), title=title(result), border_style="red" if reasons else "green"))
    console.print(f"{folder}/result.json, report.html", style="dim", highlight=False, soft_wrap=True)


def write_page(path: Path, result: Mapping[str, Any], reasons: Sequence[str]) -> None:
    """Write the report as one HTML file."""
    environment = Environment(loader=PackageLoader("pagehop_sim"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("report.html").render(title=title(result), rows=rows(result), result=result, reasons=reasons, number=number)
    write_text(path, page)
