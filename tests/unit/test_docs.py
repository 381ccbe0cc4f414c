"""The tables and figures of docs/concepts are those of the code."""

import re

from taskflow._cli import _exits
from taskflow._jobs.batching import MAX_JOBS
from taskflow._jobs.core import DEFAULT_TIMEOUT
from taskflow._messages.payloads import MAX_BYTES
from taskflow._policy import DEFAULT_BACKOFF, FINAL_STATES, SOFT, TRANSITIONS, Backoff, JobState, Outcome, decide
from taskflow._worker.options import DEFAULT_CONCURRENCY, DEFAULT_GRACE
from taskflow_server.coordinator.settings import CoordinatorSettings
from taskflow_server.scheduler.settings import SchedulerSettings
from tests.support.docs import ROOT, table

LIFE = ROOT / "docs" / "concepts" / "job-lifecycle.md"


def bare(cell: str) -> str:
    return cell.strip("`")


def test_the_table_of_transitions_is_the_policy_s() -> None:
    shown = {(bare(row[0]), bare(row[1])): bare(row[2]) for row in table(LIFE, "from")}

    wanted = {(state.name.lower(), event.value): to.name.lower() for (state, event), to in TRANSITIONS.items()}
    assert shown == wanted


def test_the_table_of_states_is_the_policy_s() -> None:
    rows = table(LIFE, "state")

    assert [bare(row[0]) for row in rows] == [state.name.lower() for state in JobState]
    assert {bare(row[0]) for row in rows if row[1].startswith("final")} == {s.name.lower() for s in FINAL_STATES}


def test_the_table_of_outcomes_says_which_use_a_try() -> None:
    shown = {bare(row[0]): row[2].startswith("yes") for row in table(LIFE, "outcome")}

    used = {o.name.lower(): decide(o, tries=0, retries=3, rng=lambda: 0.5).tries == 1 for o in Outcome}
    assert shown == used


def test_the_figures_that_the_pages_name_are_the_defaults() -> None:
    """When one of these fails, look for the figure in README, docs/concepts, docs/howto and docs/operations."""
    coordinator = {name: field.default for name, field in CoordinatorSettings.model_fields.items()}
    scheduler = {name: field.default for name, field in SchedulerSettings.model_fields.items()}

    assert (coordinator["lease"], coordinator["heartbeat_interval"], SOFT) == (15, 2, 2 / 3)
    assert (coordinator["owner_timeout"], coordinator["lease_row_after"]) == (5, 5)
    assert CoordinatorSettings(database_url="postgresql://").grace == 12.5
    assert (coordinator["cancel_grace"], coordinator["max_handouts"]) == (30, 20)
    assert (coordinator["stop_grace"], scheduler["max_payload_bytes"], MAX_BYTES) == (5, 1 << 20, 1 << 20)
    assert Backoff(first=1, factor=2, limit=600, jitter=0.1) == DEFAULT_BACKOFF
    assert (DEFAULT_TIMEOUT, DEFAULT_CONCURRENCY, DEFAULT_GRACE, MAX_JOBS) == (10, 20, 30, 5000)


def test_the_exit_codes_of_the_help_are_those_of_the_code() -> None:
    help_text = (ROOT / "docs" / "reference" / "cli.md").read_text()
    shown = {int(code) for code in re.findall(r"^    (\d+) +\w", help_text.partition("Exit codes:")[2], re.MULTILINE)}

    assert shown == {
        _exits.OK, _exits.FAILED, _exits.USAGE, _exits.UNAVAILABLE, _exits.DEADLINE, _exits.INTERRUPTED
    }  # fmt: skip


def test_every_decision_is_in_the_index_and_has_its_three_parts() -> None:
    folder = ROOT / "docs" / "adr"
    index = (folder / "README.md").read_text()

    for page in sorted(folder.glob("[0-9]*.md")):
        text = page.read_text()
        assert page.name in index
        assert text.startswith(f"# {int(page.name[:4])}. ")
        assert [h for h in ("## Context", "## Decision", "## Consequences") if h not in text] == []
