"""The fast proofs as part of the regression; ``make formal`` runs all."""

from pathlib import Path

import pytest

from pagehop_sim.formal import Proof, load, run

FAST = [proof for proof in load() if proof.fast]


@pytest.mark.parametrize("proof", FAST, ids=lambda proof: proof.name)
def test_claim_holds_and_planted_bugs_are_caught(proof: Proof, tmp_path: Path) -> None:
    outcome = run(proof, build=tmp_path)
    assert outcome.status == "pass", outcome.detail


def test_there_are_fast_proofs_of_every_kind() -> None:
    assert {proof.mode for proof in FAST} == {"bmc", "prove", "cover"}
