"""Every bench on both simulators, short; what is longer runs as a scenario."""

import pytest
from tests.planted.bug import HARDWARE

from pagehop_sim.lint import CONFIGURATIONS

#: Cycles for which a page may be held while its owner changes: the gate closes, the differential fills, its last chunks leave.
TURN = 100

#: Bench, its parameters on Verilator and on Icarus, and what must at least be checked.
BENCHES = {
    "passthrough": ({"requests": 600}, {"requests": 120}, {"events": 240}),
    "hot_page": ({"moves": 10}, {"moves": 2}, {"events": 400, "read_bytes": 1000, "final_bytes": 8192}),
    "aborts": ({"moves": 60}, {"moves": 6}, {"events": 400, "read_bytes": 500, "final_bytes": 4096}),
    "producer_consumer": ({"rounds": 90}, {"rounds": 9}, {"events": 200, "read_bytes": 1000, "final_bytes": 8192}),
    "registers": ({"rounds": 2}, {"rounds": 1}, {"events": 400, "read_bytes": 1000, "final_bytes": 4096}),
    "between": ({"requests": 600}, {"requests": 80}, {"events": 160}),
    "floods": ({}, {"cycles": 1500, "burst_cycles": 1}, {"events": 100}),
    "harvests": ({"rounds": 16}, {"rounds": 2}, {"events": 200, "final_bytes": 4096}),
    "edges": ({}, {}, {"events": 500}),
    "read_back": ({}, {"rounds": 30}, {"events": 60}),
    "odd_copies": ({}, {"cases": ["poison", "half a line"], "owed": 1}, {"events": 4, "final_bytes": 16384}),
    "forgotten": ({}, {"sizes": [1024], "ways": [4]}, {"events": 100}),
    "blocked": ({"rounds": 2}, {"rounds": 1}, {"events": 400, "read_bytes": 500, "final_bytes": 4096}),
    "opaque": ({}, {"rounds": 12}, {"events": 60}),
    "watchdog": ({"rounds": 1}, {"rounds": 1, "ways": ["limit"]}, {"events": 400, "read_bytes": 500, "final_bytes": 5 * 4096}),
    "switchover": ({}, {"rounds": 1, "steps": ["flooded", "open_reads", "translated"]}, {"events": 3000}),
    "dirty_log": ({}, {"rounds": 1, "modes": ["turns"], "faults": False}, {"events": 2000, "read_bytes": 10000}),
    "sliding": ({}, {"words": [1]}, {"events": 2000, "read_bytes": 10000, "final_bytes": 160000}),
    "large_pages": ({"moves": 8}, {"moves": 1, "sizes": [13]}, {"events": 1500, "read_bytes": 3000, "final_bytes": 65536}),
    "queue": ({"rounds": 2, "mode": "mixed", "ring_host": 1}, {"rounds": 1, "pages": 4}, {"events": 800, "final_bytes": 16384}),
}
COVERED = [
    pytest.param("passthrough", marks=pytest.mark.hazard("H18", "H21", "H24e", "H61", "H62", "O1", "O3", "D16", "I5", "I10")),
    pytest.param("hot_page", marks=pytest.mark.hazard(
        "H01", "H03", "H06", "H10", "H11", "H12", "H13", "H22", "H23", "H24a", "H24c", "H58", "H60", "H64", "O2", "D2", "D3", "D9", "D14",
        "I1", "I2", "I3", "I4", "I13")),
    pytest.param("aborts", marks=pytest.mark.hazard(
        "H07", "H09", "H14", "H16", "H19", "H24b", "H24d", "H59", "D5", "D10", "D16", "I3", "I7", "I8", "I9")),
    pytest.param("producer_consumer", marks=pytest.mark.hazard("H04", "H16", "H17", "H18", "H63", "H64", "O1", "O9", "I5", "I6", "I11")),
    pytest.param("registers", marks=pytest.mark.hazard("H46", "H48", "I12")),
    pytest.param("between", marks=pytest.mark.hazard("H24c", "D16", "I10")),
    pytest.param("floods", marks=pytest.mark.hazard("D8", "D17")),
    pytest.param("harvests", marks=pytest.mark.hazard("H46", "H47", "H58", "I12")),
    pytest.param("edges", marks=pytest.mark.hazard("H24c", "H48", "D6")),
    pytest.param("read_back", marks=pytest.mark.hazard("O1", "H18", "D6", "I5")),
    pytest.param("odd_copies", marks=pytest.mark.hazard("H14", "D16", "I9")),
    pytest.param("forgotten", marks=pytest.mark.hazard("H14", "H24b", "D7", "D16", "I7")),
    pytest.param("blocked", marks=pytest.mark.hazard("H24", "D1", "D4", "D6", "I7")),
    pytest.param("opaque", marks=pytest.mark.hazard("H24f", "H48", "O7")),
    pytest.param("watchdog", marks=pytest.mark.hazard("H65", "D12")),
    pytest.param("switchover", marks=pytest.mark.hazard("H53", "H54", "H55", "H56", "H24d", "I7")),
    pytest.param("dirty_log", marks=pytest.mark.hazard("H46", "H47", "H48", "H58", "I12")),
    pytest.param("sliding", marks=pytest.mark.hazard("H46", "H48", "I1", "I12")),
    pytest.param("large_pages", marks=pytest.mark.hazard("H07", "H09", "H10", "H49", "H59", "D10", "I1", "I2", "I7", "I8")),
    pytest.param("queue", marks=pytest.mark.hazard("H49", "H60", "I7", "I8")),
]


@pytest.mark.parametrize("name", COVERED)
def test_bench(bench, simulator, name):
    on_verilator, on_icarus, least = BENCHES[name]
    bench(name, simulator, on_verilator if simulator == "verilator" else on_icarus, HARDWARE, least=least)


#: Parameters of `hot_page` with moves that absorb. Icarus takes minutes for as many accesses as a flood makes, or a host that copies.
ABSORBING = {
    ("merge", "verilator"): {"moves": 10, "mode": "merge"},
    ("merge", "icarus"): {"moves": 2, "mode": "merge"},
    ("flood", "verilator"): {
        "moves": 6, "mode": "merge", "reads": 0, "gap": 20, "relaxed": 0.3, "write_delay": [20, 200], "read_delay": [20, 100]},
    ("host copy", "verilator"): {"moves": 4, "mode": "host_copy"},
}


@pytest.mark.hazard("H01", "H03", "H10", "H11", "H12", "H22", "H23", "H58", "H60", "H61", "H62", "D9", "I2", "I3", "I4", "I13")
@pytest.mark.parametrize("case", ABSORBING, ids=" on ".join)
def test_devices_go_on_while_a_page_moves(bench, case):
    found = bench("hot_page", case[1], ABSORBING[case], HARDWARE, least={"events": 400, "final_bytes": 8192})
    assert found.result["hold_cycles"]["max"] <= TURN, "a page was held for longer than its owner's turn takes"


@pytest.mark.hazard("H07", "H09", "H14", "H59", "I8", "I9")
def test_aborts_while_devices_go_on(bench):
    bench("aborts", "verilator", BENCHES["aborts"][0] | {"mode": "merge"}, HARDWARE, least=BENCHES["aborts"][2])


@pytest.mark.hazard("H24d")
@pytest.mark.parametrize("mode", ["hold", "mixed"])
def test_independent_requesters_keep_order_of_their_own(bench, mode):
    bench("aborts", "verilator", BENCHES["aborts"][0] | {"mode": mode, "independent": ["nic", "third"]}, HARDWARE, least=BENCHES["aborts"][2])


@pytest.mark.hazard("H10", "H58", "H59", "I2", "I8")
@pytest.mark.parametrize(("mode", "sizes"), [("merge", [16, 13]), ("host_copy", [13])])
def test_devices_go_on_while_large_pages_move(bench, mode, sizes):
    bench("large_pages", "verilator", {"moves": 4, "mode": mode, "sizes": sizes}, HARDWARE, least=BENCHES["large_pages"][2])


@pytest.mark.parametrize("seed", [2, 3])
def test_more_seeds(bench, seed):
    for name in ("aborts", "producer_consumer"):
        bench(name, "verilator", BENCHES[name][0], HARDWARE, least=BENCHES[name][2], seed=seed)


@pytest.mark.hazard("H10", "H14", "H49", "D16", "I1", "I4", "I7", "I8")
def test_pages_move_at_the_same_time(bench):
    """With two slots, whose copy reads need tags of 10 bits; with four in the scenario ``slots``. No fault shortens the limit of all holds."""
    hardware = CONFIGURATIONS["slots"][1]
    faults = ["unsupported", "completer_abort", "poison", "silence", "late", "host", "cross_store"]
    bench("slots", "verilator", {"rounds": 1}, hardware, least={"events": 2000, "final_bytes": 2 * 4096})
    bench("slots", "verilator", {"rounds": 2, "mode": "mixed"}, hardware, least={"events": 4000, "final_bytes": 2 * 4096})
    bench("aborts", "verilator", BENCHES["aborts"][0] | {"mode": "mixed", "faults": faults}, hardware, least=BENCHES["aborts"][2])
    bench("queue", "verilator", {"rounds": 1, "mode": "mixed"}, hardware, least=BENCHES["queue"][2])
    bench("large_pages", "verilator", {"moves": 4, "mode": "mixed", "sizes": [14, 13]}, hardware, least=BENCHES["large_pages"][2])


@pytest.mark.hazard("H34", "H46", "H47", "H58", "I12")
def test_page_tables_are_marked(bench):
    """In the design with two slots, which has what that needs."""
    hardware = CONFIGURATIONS["slots"][1]
    delays = {"write_delay": [20, 100], "read_delay": [50, 150]}
    bench("dirty_log", "verilator", {"rounds": 1, "modes": ["tables"]} | delays, hardware, least=BENCHES["dirty_log"][2])


#: Benches of the other topologies, short: each is a design of its own. Scenarios run them for longer. Both memories, or Host B, take 128 bytes at a
#: time where 256 come, and pages of two sizes move.
SHORT = {
    "hot_page": {"moves": 2, "mode": "mixed", "line": 256, "gap": 100}, "producer_consumer": {"rounds": 18},
    "large_pages": {"moves": 1, "sizes": [13], "abort_share": 0.0, "mode": "merge"},
}


@pytest.mark.hazard("H01", "H03", "H04", "H12", "H24c", "H58", "D3", "I1", "I5", "I13")
def test_one_host_with_two_memories_needs_no_fence(bench):
    """Figure 9. Order holds over both places also for who sees both at once, for there is one path, so the fence policy fences nothing."""
    hardware = CONFIGURATIONS["one host"][1]
    for name, parameters in SHORT.items():
        bench(name, "icarus", parameters | {"fence": True, "mps": [256, 128, 128]}, hardware, least={"events": 100, "final_bytes": 4096})


@pytest.mark.hazard("H01", "H03", "H04", "H24c", "H64", "O2", "O3", "O6", "I1", "I5", "I6")
def test_two_interposers_in_a_row_are_one(bench):
    """Figure 7B. The second adds to addresses at Host B; order over both hosts holds as with one, also for who sees both when fences are on."""
    hardware = CONFIGURATIONS["in a row"][1]
    for name, parameters in SHORT.items():
        bench(name, "icarus", parameters | {"mps": [256, 256, 128]}, hardware, least={"events": 100, "final_bytes": 4096})
    fenced = bench("producer_consumer", "icarus", {"rounds": 6, "fence": True}, hardware, least={"events": 50})
    assert fenced.result["fences"]["count"] > 0


@pytest.mark.hazard("H24c", "H46", "H47", "H48", "I1", "I12")
def test_log_limits_and_large_pages_together(bench):
    """Pages of 8 KB move under the dirty log to a host that takes 128 bytes where 256 come: a report has what is written to both units, and whole."""
    together = {"rounds": 1, "modes": ["swap"], "faults": False, "page_size": 13, "mps": [256, 256, 128]}
    bench("dirty_log", "verilator", together, HARDWARE, least=BENCHES["dirty_log"][2])


@pytest.mark.hazard("H04")
def test_fence_policy_keeps_order_for_an_observer_of_both_hosts(bench):
    for name in ("aborts", "producer_consumer"):
        parameters = BENCHES[name][0] | {"fence": True}
        fences = bench(name, "verilator", parameters, HARDWARE, least=BENCHES[name][2]).result["fences"]
        assert fences["count"] > 0 and fences["cycles"] > 0


@pytest.mark.hazard("H04")
def test_without_fences_such_an_observer_sees_disorder(bench):
    outcome = bench("aborts", "verilator", BENCHES["aborts"][0] | {"out_of_band": True}, HARDWARE, check=False)
    violations = {name: count for name, count in outcome.result["violations"].items() if count}
    assert set(violations) == {"reordered"}, f"the wrong policy for a topology must be seen to fail: {violations}"


@pytest.mark.hazard("O7", "H03")
def test_no_page_moves_where_a_traffic_class_has_a_channel_of_its_own(bench):
    classes = {"moves": 2, "reads": 0, "gap": 20, "traffic_class": 3}
    bench("hot_page", "verilator", classes, HARDWARE, least={"events": 400})
    outcome = bench("hot_page", "verilator", classes | {"classes_apart": True}, HARDWARE, check=False)
    assert all("did not move: opaque" in message for message in outcome.failures.values()) and outcome.failures, outcome.failures


@pytest.mark.hazard("H24c", "I3", "I5", "I10")
def test_host_b_takes_smaller_payloads(bench, simulator):
    """Pages move between a host that takes 256 bytes at a time and one that takes 128, under writes of 256 bytes and of all sizes."""
    short = simulator == "icarus"
    small = {"moves": 2 if short else 6, "mps": [256, 256, 128], "line": 256, "gap": 100, "traffic_gap": 30}
    for mode in ("hold",) if short else ("hold", "merge"):
        bench("hot_page", simulator, small | {"mode": mode}, HARDWARE, least={"events": 400, "final_bytes": 8192})
    bench("between", simulator, {"requests": 80 if short else 400, "limit_b": 128}, HARDWARE, least={"events": 160})


@pytest.mark.hazard("H24d")
def test_a_page_that_moves_hardly_costs_latency(bench):
    bench("latency", "verilator", {"cycles": 20_000}, HARDWARE, least={"events": 1000})


@pytest.mark.hazard("D8")
def test_rates_latency_and_hold_keep_their_limits(bench):
    values = bench("performance", "verilator", {}, HARDWARE).result["values"]
    assert {"upstream_share_64", "downstream_share_256", "upstream_idle_latency", "hold_cycles"} <= set(values)


@pytest.mark.hazard("H24c", "D14")
@pytest.mark.parametrize("name", ["narrow", "digests", "wide"])
def test_every_width(bench, name):
    """With each treatment of digests too, for one more costs a design more."""
    hardware = CONFIGURATIONS[name][1]
    bench("passthrough", "icarus", {"requests": 80}, hardware, least={"events": 200})
    bench("hot_page", "icarus", {"moves": 2}, hardware, least={"read_bytes": 1000})


@pytest.fixture
def small_trace(tmp_path):
    """A few accesses of each kind on four pages, so that a small window holds them."""
    lines = ["device,op,address,length,kind"]
    for number in range(30):
        lines += [
            f"nvme,R,{0x1000 + 64 * number:#x},64,sqe", f"nvme,W,{0x4000 + 128 * number:#x},128,data", f"nic,R,{0x5000 + 64 * number:#x},64,tx-data",
            f"nvme,W,{0x2000 + 16 * number:#x},16,cqe", "nvme,W,0xfee00000,4,msi", f"nic,W,{0x5800 + 60 * number:#x},60,rx-data",
        ]
    path = tmp_path / "small.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_migration_of_a_small_guest(bench, simulator, small_trace):
    result = bench("migrate", simulator, {"pages": 4}, HARDWARE, trace=small_trace, least={"read_bytes": 5000, "final_bytes": 4 * 4096}).result
    assert result["pages"]["moved"] == 4
    assert result["accesses"]["messages"] >= 60


def test_rate_of_a_small_guest(bench, simulator, small_trace):
    """Pages per second of so few pages say nothing, but all figures are there, and devices keep what the copy leaves them."""
    parameters = {"pauses": 0.0, "write_delay": [125, 125], "read_delay": [250, 250]}
    result = bench("fio", simulator, parameters, HARDWARE, trace=small_trace, least={"read_bytes": 64, "final_bytes": 4 * 4096}).result
    assert result["pages"]["moved"] == 4
    assert set(result["values"]) >= {"fio_pages_per_second", "fio_share_of_the_wire", "fio_device_keeps"}


@pytest.mark.hazard("H07", "H14", "D16")
def test_late_answers_meet_no_other_move(bench):
    parameters = {"moves": 40, "faults": ["late"], "read_delay": [400, 1500]}
    bench("aborts", "verilator", parameters, HARDWARE, least={"events": 4000, "read_bytes": 500})
