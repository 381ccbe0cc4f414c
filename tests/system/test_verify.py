"""`taskflow verify` over a real history, as it is and with seeded faults."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support import history
from tests.support.cluster import ServiceCluster
from tests.support.seeds import SEEDS, Seed
from tests.support.verifying import contradictions, results, seeded


@pytest.fixture(scope="module")
def past(make_cluster: Callable[..., ServiceCluster]) -> str:
    """The dsn of a history whose cluster was killed in the midst of its work."""
    cluster = make_cluster(env={"coordinator": {"TASKFLOW_LEASE_ROW_AFTER": "0.2"}})
    cluster.start_all()
    history.make(cluster)
    return cluster.dsn


def test_a_clean_history_has_no_finding(past: str) -> None:
    found = results(past)

    assert contradictions(found) == {}
    assert [(r.check.id, r.looked) for r in found if not r.looked] == []
    assert [r.skipped for r in found if r.skipped] == []


@pytest.mark.parametrize("seed", SEEDS, ids=str)
def test_a_seeded_fault_is_found_by_its_check(past: str, seed: Seed) -> None:
    subject, found = seeded(past, seed)

    assert any(subject in line for line in found.get(seed.check, [])), f"not found: {subject}; found: {found}"
