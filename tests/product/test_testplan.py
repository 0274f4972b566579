"""The test plan is whole: everything in scope has a test and a planted bug, and the page says so."""

import ast

from pagehop_sim import testplan
from pagehop_sim.testplan import IDS, Row, page, problems, registry, rows


def test_everything_in_scope_has_a_test_and_a_planted_bug():
    assert not (said := problems(rows())), "\n".join(said)


def test_the_page_is_not_stale():
    assert testplan.PAGE.read_text(encoding="utf-8") == page(rows()), "docs/testplan.md is stale: run `python -m pagehop_sim.testplan`"


def test_every_bug_fits_the_hardware():
    for bug in registry()[0]:
        bug.design()


def test_names_of_bugs_are_names():
    names = [bug.name for bug in registry()[0]]
    assert len(set(names)) == len(names)
    assert all(bug.covers and bug.design.__doc__ for bug in registry()[0]), "a bug says what it leaves out, and which rule that is"


def test_holes_are_seen():
    found = rows()
    found["H03"] = Row("", bugs=["a_bug"], tests=["a_test"])
    found["H12"] = Row("text", "stimulus", "check", tests=["a_test"])
    found["I4"] = Row("text", "stimulus", "check", bugs=["a_bug"], proofs=["no_such_proof"])
    found["O5"] = Row("text", bugs=["a_bug"], reason="a reason")
    found["H99"] = Row("text")
    found["O1"] = Row("text", "stimulus", "check", bugs=["a_bug"])
    assert sorted({problem.split(" ")[0].rstrip(":") for problem in problems(found)}) == ["H03", "H12", "H99", "I4", "O1", "O5"]


def test_marks_are_read():
    text = '''
LIST = [pytest.param("a", marks=pytest.mark.hazard("H01")), pytest.param("b")]
@pytest.mark.parametrize("name", LIST)
@pytest.mark.hazard("O1", "I1")
def test_x(name): pass
def test_y(): pass
'''
    assert list(testplan._marks(ast.parse(text))) == [("test_x[a]", ["H01"]), ("test_x", ["O1", "I1"])]


def test_ids_are_those_of_the_design():
    assert len(IDS) == len(set(IDS)) == 59 + 9 + 17 + 13
