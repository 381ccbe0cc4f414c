"""`taskflow verify` over a real history, as it is and with seeded faults, and its command."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from taskflow_server.cluster.ports import free_ports
from taskflow_server.verify.checks import CHECKS
from tests.support import forkserver, history, rows
from tests.support import postgres as pg
from tests.support.cluster import ROOT, ServiceCluster
from tests.support.seeds import PICK, SEEDS, Seed
from tests.support.verifying import contradictions, results, seeded

AUDITOR = "taskflow_test_auditor"
_numbers = itertools.count(1)
Copy = Callable[..., str]


@pytest.fixture(scope="module")
def past(make_cluster: Callable[..., ServiceCluster]) -> str:
    """The dsn of a history whose cluster was killed in the midst of its work."""
    cluster = make_cluster(env={"coordinator": {"TASKFLOW_LEASE_ROW_AFTER": "0.2"}})
    cluster.start_all()
    history.make(cluster)
    return cluster.dsn


@pytest.fixture
def copy(postgres: str, past: str) -> Iterator[Copy]:
    """Copies the history, and seeds faults into the copy, which stay."""
    made = []

    def make(*seeds: Seed) -> str:
        rows.found(postgres, "select")  # the connection that `rows` keeps must not be to the history
        made.append(f"verify_copy_{os.getpid()}_{next(_numbers)}")
        dsn = pg.create_database(postgres, made[-1], urlsplit(past).path[1:])
        with psycopg.connect(dsn) as conn:
            for statement in (*PICK, *(each for seed in seeds for each in seed.statements)):
                conn.execute(statement.encode())
        return dsn

    yield make
    for name in made:
        pg.drop_database(postgres, name)


def verify(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TASKFLOW_")}
    return forkserver.run([sys.executable, "-m", "taskflow._cli", "verify", *words], env=environ | env, cwd=ROOT)


def seed_of(check: str) -> Seed:
    return next(seed for seed in SEEDS if seed.check == check)


@pytest.mark.feature("M.14")
def test_a_clean_history_has_no_finding(past: str) -> None:
    found = results(past)

    assert contradictions(found) == {}
    assert [result.check.id for result in found] == [check.id for check in CHECKS]
    assert [result.check.id for result in found if not result.looked] == []
    assert [result.skipped for result in found if result.skipped] == []


@pytest.mark.feature("M.14")
def test_small_pages_find_the_same(past: str, copy: Copy) -> None:
    assert contradictions(results(past, page=7)) == {}

    faulty = copy(*(seed_of(id) for id in ("attempt-numbers", "deferred-present", "keys-lead", "run-whole")))
    whole, paged = contradictions(results(faulty)), contradictions(results(faulty, page=7))
    assert whole == paged
    assert {"attempt-numbers", "deferred-present", "keys-lead", "run-whole"} <= paged.keys()


@pytest.mark.feature("M.14")
@pytest.mark.parametrize("seed", SEEDS, ids=str)
def test_a_seeded_fault_is_found_by_its_check(past: str, seed: Seed) -> None:
    subject, found = seeded(past, seed)

    assert any(subject in line for line in found.get(seed.check, [])), f"not found: {subject}; found: {found}"


@pytest.mark.feature("M.14")
def test_every_check_has_a_seeded_fault_but_the_one_that_waits() -> None:
    assert {check.id for check in CHECKS if not check.settles} == {seed.check for seed in SEEDS}


@pytest.mark.feature("M.14")
def test_an_event_of_a_run_that_has_ended_counts_when_it_stays_while_its_owner_lives(copy: Copy) -> None:
    dsn = copy()
    rows.run(dsn, "insert into taskflow.run_inbox (run_id, shard, event) select id, shard, '{}' from taskflow.runs"
             " where status = 'succeeded' limit 1")  # fmt: skip

    async def beat() -> None:
        rows.run(dsn, "update taskflow.members set beat = beat + 1")

    async def silence() -> None:
        pass

    async def hear() -> None:
        rows.run(dsn, "delete from taskflow.run_inbox")

    assert contradictions(results(dsn, "run-hears", pause=silence)) == {}
    assert list(contradictions(results(dsn, "run-hears", pause=beat))) == ["run-hears"]
    assert contradictions(results(dsn, "run-hears", pause=hear)) == {}


LEASE_FIRST = """
insert into taskflow.leases (job_id, exec_id, shard, priority, attempt, tries, handouts, started, queue, task)
select j.id, '00000000-0000-0000-0000-000000000000', q.shard, j.priority, a.attempt + 1, a.tries, 1, false,
    j.queue, j.task
from taskflow.jobs j join taskflow.queues q on q.name = j.queue join taskflow.attempts a on a.job_id = j.id
where a.exec_id is not null order by j.id, a.attempt desc limit 1
"""


@pytest.mark.feature("M.14")
def test_what_a_prune_may_have_deleted_meanwhile_is_no_finding(copy: Copy) -> None:
    dsn = copy(seed_of("history-whole"), seed_of("firing-made"))
    with psycopg.connect(dsn, autocommit=True) as prune:
        prune.execute("select pg_advisory_lock(hashtext('taskflow.prune'))")
        meanwhile = results(dsn, "history-whole", "firing-made")
    afterwards = results(dsn, "history-whole", "firing-made")

    assert [(result.found, "prune" in result.skipped) for result in meanwhile] == [(0, True), (0, True)]
    assert list(contradictions(afterwards)) == ["history-whole", "firing-made"]


@pytest.mark.feature("M.14")
def test_a_lease_row_that_is_written_before_its_hand_out_is_no_finding(copy: Copy) -> None:
    """A job in doubt (A12): the row has no exec_id yet, which the column holds as zeros."""
    dsn = copy()
    rows.run(dsn, LEASE_FIRST)

    assert rows.found(dsn, "select from taskflow.leases where exec_id = '00000000-0000-0000-0000-000000000000'")
    assert contradictions(results(dsn, "attempt-fenced")) == {}


@pytest.mark.feature("M.14", "X.11")
def test_the_command_says_what_each_check_has_looked_at(past: str) -> None:
    person, program = verify("--database-url", past), verify("--json", TASKFLOW_DATABASE_URL=past)

    assert (person.returncode, person.stderr) == (0, "")
    *lines, last = person.stdout.splitlines()
    assert [line.split()[1].rstrip(":") for line in lines] == [check.id for check in CHECKS]
    assert all(line.startswith("ok    ") for line in lines)
    assert last == f"0 findings in {len(CHECKS)} checks"
    document = json.loads(program.stdout)
    assert (program.returncode, document["findings"]) == (0, 0)
    jobs = next(check for check in document["checks"] if check["id"] == "job-kept")
    assert (jobs["rows"], jobs["looked"] > 80, jobs["findings"], jobs["skipped"]) == ("jobs", True, [], None)


@pytest.mark.feature("M.14", "X.11")
def test_the_command_shows_the_rows_that_prove_a_finding(copy: Copy) -> None:
    dsn = copy(seed_of("attempt-numbers"), seed_of("owner-agrees"))

    person = verify("--database-url", dsn, "--check", "attempt-numbers", "--check", "mark-bounds")
    assert person.returncode == 1
    first, proof, second, last = person.stdout.splitlines()
    assert first.startswith("FAULT attempt-numbers: attempts of a job are numbered")
    assert proof.endswith('{"attempts": [1, 3]}')
    assert second.startswith("ok    mark-bounds: ")
    assert last == "1 finding in 2 checks"
    few = verify("--database-url", dsn, "--check", "attempt-numbers", "--limit", "0")
    assert (few.returncode, "and 1 more" in few.stdout, "{" in few.stdout) == (1, True, False)
    document = json.loads(verify("--database-url", dsn, "--json").stdout)
    (found,) = [check for check in document["checks"] if check["id"] == "attempt-numbers"]
    assert (found["found"], found["findings"][0]["proof"]) == (1, {"attempts": [1, 3]})


@pytest.mark.feature("M.14")
def test_since_and_until_bound_the_history(past: str, copy: Copy) -> None:
    faulty = copy(seed_of("attempt-numbers"))
    words = ("--database-url", faulty, "--json", "--check", "attempt-numbers", "--check", "counts-true")

    def looked(*more: str) -> tuple[int, int, bool]:
        answer = verify(*words, *more)
        numbers, counts = json.loads(answer.stdout)["checks"]
        return answer.returncode, numbers["looked"], bool(counts["skipped"])

    everything = looked()
    assert looked("--since", "1h") == (1, everything[1], True)
    assert looked("--until", "1h") == (0, 0, True)
    assert looked("--since", "2099-01-01") == (0, 0, True)


@pytest.mark.feature("M.14", "X.11")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--check", "job-keept"), "did you mean job-kept?"),
        (("--since", "yesterday"), "--since yesterday: give an instant"),
        (("--since", "1h", "--until", "2h"), "--since 1h is not before --until 2h"),
        (("--limit", "-1"), "--limit"),
        (("--database-url", "mysql://x"), "not a valid URL of Postgres"),
    ],
)
def test_wrong_usage_is_told_in_one_line(past: str, words: tuple[str, ...], said: str) -> None:
    answer = verify("--database-url", past, *words)

    assert (answer.returncode, answer.stdout, answer.stderr.count("\n")) == (2, "", 1)
    assert said in answer.stderr


@pytest.mark.feature("M.14", "X.11")
def test_a_database_that_cannot_be_had_is_unavailable(past: str, postgres: str) -> None:
    (port,) = free_ports(1)
    absent = verify("--database-url", f"postgresql://nobody@127.0.0.1:{port}/x")
    foreign = verify("--database-url", postgres)

    assert (absent.returncode, absent.stderr.count("\n")) == (3, 1)
    assert (foreign.returncode, "run `taskflow db migrate`" in foreign.stderr) == (3, True)


@pytest.mark.feature("M.14")
def test_a_role_that_may_only_read_is_enough_and_a_missing_right_is_named(past: str) -> None:
    def as_auditor() -> subprocess.CompletedProcess[str]:
        place = urlsplit(past)
        return verify("--database-url", urlunsplit(place._replace(netloc=f"{AUDITOR}:x@{place.hostname}:{place.port}")))

    with psycopg.connect(past, autocommit=True) as conn:
        conn.execute(f"create role {AUDITOR} login password 'x'")
        try:
            refused = as_auditor()
            conn.execute(f"grant pg_read_all_data to {AUDITOR}")
            conn.execute(f"alter role {AUDITOR} set default_transaction_read_only = on")
            assert as_auditor().returncode == 0
        finally:
            conn.execute(f"drop role {AUDITOR}")

    assert (refused.returncode, refused.stderr.count("\n")) == (3, 1)
    assert AUDITOR in refused.stderr
