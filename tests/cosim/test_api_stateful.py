"""Any interleaving of what a hypervisor may do, found by Hypothesis, against the documented behaviour; and a planted bug that it must find."""

import json
import os

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from pagehop_sim.build import build
from pagehop_sim.run import run
from pagehop_sim.toolchain import build_root
from pagehop_sim.verilog import PARAMETERS, generate

SEED = int(os.environ.get("SEED", "1"))
#: Simulations; the nightly run asks for more.
EXAMPLES = int(os.environ.get("API_EXAMPLES", "8"))
HARDWARE = {"data_bytes": 64, "window_pages": 128}
PAGES = 4

page, host = st.integers(0, PAGES - 1), st.integers(0, 1)
#: Few places, so that what is written is also read; across lines and dwords.
offset, size = st.sampled_from((0, 5, 60, 61, 128, 3840)), st.sampled_from((1, 4, 7, 64, 130, 250))
DMA = st.one_of(
    st.tuples(st.just("write"), page, offset, size), st.tuples(st.just("read"), page, offset, size),
    st.tuples(st.just("add"), page, st.sampled_from((0, 64, 3840)), st.integers(1, 1 << 40)))
OPERATION = st.one_of(
    DMA,
    st.tuples(st.just("move"), page, host, st.lists(DMA, max_size=6)),
    st.tuples(st.just("abort"), page, host, st.integers(0, 2500)),
    st.tuples(st.just("twice"), page, host, page),
    st.tuples(st.just("refused"), st.sampled_from(("not_in_window", "page_size", "misaligned", "destination")), page, host),
    st.tuples(st.just("harvest"), st.booleans()), st.tuples(st.just("owners")), st.tuples(st.just("fence"), st.booleans()),
    st.tuples(st.just("active"), host), st.tuples(st.just("config"), host), st.tuples(st.just("reset")))
#: Among which the planted bug is soon found.
SIMPLE = st.one_of(
    st.tuples(st.just("move"), page, host, st.just(())), st.tuples(st.just("owners")), st.tuples(st.just("harvest"), st.booleans()),
    st.tuples(st.just("refused"), st.sampled_from(("page_size", "misaligned")), page, host))
#: Several short lists make a longer one: a simulation costs more to start than to run. Each shrinks to nothing by itself.
LONG = st.tuples(*[st.lists(OPERATION, max_size=12)] * 5).map(lambda lists: [operation for one in lists for operation in one])


class Simulated:
    """Carries out operations in a simulation of their own. A list that was tried before is not tried again, and no more than ``most`` are."""

    def __init__(self, built, folder, most):
        self.built, self.folder, self.most = built, folder, most
        self.outcomes = {}

    def __call__(self, operations):
        """Return why it failed, or None."""
        if not operations:
            return None
        known = json.dumps(operations)
        if known not in self.outcomes:
            if len(self.outcomes) >= self.most:
                return None
            config = {"scenario": "uvm", "hardware": HARDWARE, "parameters": {"operations": operations, "pages": PAGES}}
            outcome = run(self.built, "pagehop_tb.uvm.tests", self.folder, config, seed=SEED, timeout_seconds=120, test_filter=r"\.Api$")
            assert outcome.tests or outcome.timed_out, f"no test ran, see {outcome.log}"
            self.outcomes[known] = "it did not end" if outcome.timed_out else next(iter(outcome.failures.values()), None)
        return self.outcomes[known]


def search(simulated, strategy, examples):
    """Let Hypothesis look for a list that fails. Raises for the shortest that it found."""
    @seed(SEED)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False,
              phases=(Phase.generate, Phase.shrink))
    @given(strategy)
    def holds(operations):
        failure = simulated(operations)
        assert failure is None, f"{json.dumps(operations)}: {failure}"

    holds()


def folder_of(name):
    return build_root() / "test" / "cosim" / name


def test_documented_behaviour_in_any_order():
    hardware = {name: HARDWARE.get(name, default) for name, (_, default) in PARAMETERS.items()}
    built = build(generate(hardware), "interposer", "verilator")
    simulated = Simulated(built, folder_of("api_stateful"), most=10 * EXAMPLES)
    search(simulated, LONG, EXAMPLES)
    tried = {operation[0] for known in simulated.outcomes for operation in json.loads(known)}
    assert len(simulated.outcomes) >= min(4, EXAMPLES) and len(tried) >= 10, f"too little was tried: {len(simulated.outcomes)} lists of {tried}"


def test_planted_bug_is_found_and_shrunk(broken):
    simulated = Simulated(broken("moves_to_where_it_is"), folder_of("api_planted"), most=12)
    with pytest.raises(AssertionError, match=r"a move of page \d from Host . to . ended with none") as found:
        search(simulated, st.lists(SIMPLE, min_size=1, max_size=4), 12)
    shortest = json.JSONDecoder().raw_decode(str(found.value))[0]
    assert len(shortest) == 1 and shortest[0][0] == "move", f"the shortest list that fails is longer than it must be: {shortest}"
