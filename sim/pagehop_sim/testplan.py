"""``docs/testplan.md``: for every hazard, rule and invariant what provokes it, what is compared, which tests do, and which planted bug proves them.

``python -m pagehop_sim.testplan`` writes the page, ``--check`` compares it. It is made from ``tests/planted`` (the texts of ``hazards.toml``, the
planted bugs, the reasons of what is out of scope) and from the marks ``@pytest.mark.hazard("H03", "O1")`` on the tests.
"""

import argparse
import ast
import importlib
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pagehop_sim.files import write_text
from pagehop_sim.formal import load

__all__ = ["IDS", "Row", "page", "problems", "rows"]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "testplan.md"

#: Numbers of a hazard with letters: H24a to H24f.
_HAZARDS = (*range(1, 24), "24", *(f"24{letter}" for letter in "abcdef"), *range(25, 37), 46, 47, 48, 49, *range(53, 66))
#: What the hardware has to answer for, in the order of the page.
IDS = (*(f"H{number:0>2}" for number in _HAZARDS), *(f"O{number}" for number in range(1, 10)), *(f"D{number}" for number in range(1, 18)),
       *(f"I{number}" for number in range(1, 14)))


@dataclass
class Row:
    """One line of the page. ``bugs`` are planted bugs of benches, ``proofs`` claims that have planted bugs of their own."""

    what: str
    stimulus: str = ""
    check: str = ""
    tests: list[str] = field(default_factory=list)
    proofs: list[str] = field(default_factory=list)
    bugs: list[str] = field(default_factory=list)
    reason: str = ""


def marked_tests(root: Path = ROOT / "tests") -> dict[str, list[str]]:
    """Return the tests that carry each id, as ``folder/file.py::test``."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(root.rglob("test_*.py")):
        for name, ids in _marks(ast.parse(path.read_text(encoding="utf-8"))):
            for hazard in ids:
                found[hazard].append(f"{path.parent.name}/{path.name}::{name}")
    return dict(found)


def _marks(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    """The marks of each test function, those of one of its parameters with that parameter's name."""
    lists = {target.id: node.value for node in tree.body if isinstance(node, ast.Assign) for target in node.targets if isinstance(target, ast.Name)}
    for node in tree.body:
        if not (isinstance(node, ast.FunctionDef) and node.name.startswith("test_")):
            continue
        for decorator in node.decorator_list:
            if ids := _ids(decorator):
                yield node.name, ids
            named: list[ast.expr] = [lists[name.id] for name in ast.walk(decorator) if isinstance(name, ast.Name) and name.id in lists]
            for call in (call for part in (decorator, *named) for call in ast.walk(part)):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.param":
                    for keyword in call.keywords:
                        if keyword.arg == "marks" and (ids := _ids(keyword.value)):
                            yield f"{node.name}[{ast.literal_eval(call.args[0])}]", ids


def _ids(expression: ast.expr) -> list[str]:
    """The ids in a ``pytest.mark.hazard(...)``; none in anything else."""
    if isinstance(expression, ast.Call) and ast.unparse(expression.func) == "pytest.mark.hazard":
        return [str(argument.value) for argument in expression.args if isinstance(argument, ast.Constant)]
    return []


def registry() -> tuple[tuple[Any, ...], Mapping[str, str]]:
    """The planted bugs, and the reasons of what is out of scope."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    module = importlib.import_module("tests.planted.bugs")
    return module.BUGS, module.OUT_OF_SCOPE


def rows() -> dict[str, Row]:
    """Return the rows of the page by id, also of ids that :data:`IDS` does not know."""
    texts = tomllib.loads((ROOT / "tests" / "planted" / "hazards.toml").read_text(encoding="utf-8"))
    found = {hazard: Row(text.get("what", ""), text.get("stimulus", ""), text.get("check", ""), proofs=list(text.get("proofs", ())))
             for hazard, text in sorted(texts.items(), key=lambda item: IDS.index(item[0]) if item[0] in IDS else len(IDS))}
    bugs, reasons = registry()
    for hazard, tests in marked_tests().items():
        found.setdefault(hazard, Row("")).tests += tests
    for bug in bugs:
        for hazard in bug.covers:
            found.setdefault(hazard, Row("")).bugs.append(bug.name)
    for hazard, reason in reasons.items():
        found.setdefault(hazard, Row("")).reason = reason
    return found


def problems(found: Mapping[str, Row]) -> list[str]:
    """Say of each id what the plan lacks: a text, a test, a planted bug; or that nobody knows it."""
    proofs = {proof.name for proof in load()}
    said = [f"{hazard} is in no list of hazards, rules and invariants" for hazard in found if hazard not in IDS]
    for hazard in IDS:
        row = found.get(hazard, Row(""))
        said += [f"{hazard}: there is no proof {name!r}" for name in row.proofs if name not in proofs]
        if not row.what:
            said.append(f"{hazard} has no text in tests/planted/hazards.toml")
        if row.reason:
            if row.bugs:
                said.append(f"{hazard} is called out of scope and has the planted bug {row.bugs[0]}")
            if row.tests:
                said.append(f"{hazard} is called out of scope and has the test {row.tests[0]}")
            continue
        if not (row.stimulus and row.check):
            said.append(f"{hazard} has no stimulus or no check in tests/planted/hazards.toml")
        if not (row.tests or row.proofs):
            said.append(f"{hazard} has no test")
        if not (row.bugs or row.proofs or any("planted_bug" in test for test in row.tests)):
            said.append(f"{hazard} has no planted bug")
    return said


HEAD = """# Test plan

What the hardware has to answer for: hazards (H), ordering rules (O), rules against deadlock (D), invariants of the checker (I). A test
names what it covers with `@pytest.mark.hazard`; a planted bug leaves one rule out of the hardware and must be found by the bench that is named with
it in `tests/planted`. Proofs, and some tests, have planted bugs of their own. Generated by `python -m pagehop_sim.testplan`; `make test` fails when
the page is stale, or when something in scope has no test or no planted bug.

| | hazard, rule, invariant | stimulus | check | tests and proofs | planted bugs |
|---|---|---|---|---|---|
"""
OUT_OF_SCOPE = """
## Out of scope

| | hazard or rule | why |
|---|---|---|
"""


def page(found: Mapping[str, Row]) -> str:
    """Return the text of the page."""
    covered, left = [], []
    for hazard, row in found.items():
        if row.reason:
            left.append(f"| {hazard} | {row.what} | {row.reason} |")
        else:
            tests = [f"`{test}`" for test in row.tests] + [f"proof `{name}`" for name in row.proofs]
            bugs = "<br>".join(f"`{bug}`" for bug in row.bugs) or f"of the {'proof' if row.proofs else 'test'}"
            cells = (hazard, row.what, row.stimulus, row.check, "<br>".join(tests), bugs)
            covered.append(f"| {' | '.join(cells)} |")
    return HEAD + "\n".join(covered) + "\n" + OUT_OF_SCOPE + "\n".join(left) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Command line: 0 when all is up to date, 1 when ``--check`` found a stale page or the plan has a hole."""
    parser = argparse.ArgumentParser(prog="python -m pagehop_sim.testplan", description="Write docs/testplan.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the page is stale")
    options = parser.parse_args(arguments)
    found = rows()
    said = problems(found)
    text = page(found)
    if not options.check:
        write_text(PAGE, text)
        print(PAGE)
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        said.append(f"{PAGE.relative_to(ROOT)} is stale; run `python -m pagehop_sim.testplan`")
    print("\n".join(said) if said else "the test plan is whole")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
