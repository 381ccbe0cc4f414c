"""Job ids."""

import os
import threading
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from taskflow import InvalidArgument, TaskFlow
from taskflow._messages import ids
from taskflow._transport.clock import wall_ms


def test_an_id_is_a_uuid7_of_now() -> None:
    before = wall_ms()

    made = UUID(bytes=ids.new_id())

    assert made.version == 7
    assert made.variant == "specified in RFC 4122"
    assert before <= made.int >> 80 <= wall_ms() + 1


def test_ids_grow_and_never_repeat() -> None:
    made = [ids.new_id() for _ in range(50_000)]

    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_grow_when_the_clock_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = ids.new_id()
    monkeypatch.setattr(ids, "wall_ms", lambda: 1_000)

    later = [ids.new_id() for _ in range(100)]

    assert [first, *later] == sorted([first, *later])


def test_threads_make_different_ids() -> None:
    made: list[bytes] = []
    threads = [threading.Thread(target=lambda: made.extend([ids.new_id() for _ in range(5_000)])) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(made)) == 40_000


def test_a_forked_process_does_not_repeat_its_parents_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "wall_ms", lambda: wall_ms() + 60_000)
    ids.new_id()
    read, write = os.pipe()

    if (pid := os.fork()) == 0:
        os.write(write, ids.new_id())
        os._exit(0)
    os.waitpid(pid, 0)

    childs, ours = os.read(read, 16), ids.new_id()
    assert childs[6:] != ours[6:]


def test_an_id_is_shown_as_a_uuid() -> None:
    raw = ids.new_id()

    assert ids.show(raw) == str(UUID(bytes=raw))
    assert ids.parse(ids.show(raw).upper()) == ids.show(raw)


@pytest.mark.parametrize("wrong", ["", "17", "not-an-id", None, 17, "0198c0de-0000-7000-8000-00000000000g"])
def test_what_is_no_id_is_refused_by_name(wrong: object) -> None:
    with pytest.raises(InvalidArgument, match=r"^id: .* is not a valid id; ") as refused:
        ids.parse(wrong)  # type: ignore[arg-type]

    assert refused.value.field == "id"


@pytest.mark.parametrize("verb", [
    lambda tf, id: tf.jobs.get(id), lambda tf, id: tf.jobs.wait(id), lambda tf, id: tf.jobs.cancel(id),
    lambda tf, id: tf.jobs.retry(id), lambda tf, id: tf.jobs.attempts(id), lambda tf, id: list(tf.jobs.logs(id)),
    lambda tf, id: tf.workflows.get_run(id), lambda tf, id: tf.workflows.wait(id),
    lambda tf, id: tf.workflows.cancel(id), lambda tf, id: tf.workflows.retry(id),
    lambda tf, id: tf.workflows.signal(id, "go"), lambda tf, id: tf.schedules.get(id),
    lambda tf, id: tf.schedules.update(id, cron="@daily"), lambda tf, id: tf.schedules.pause(id),
    lambda tf, id: tf.schedules.resume(id), lambda tf, id: tf.schedules.delete(id),
    lambda tf, id: tf.schedules.preview(id), lambda tf, id: list(tf.schedules.firings(id)),
    lambda tf, id: tf.schedules.backfill(id, start=datetime(2027, 1, 1, tzinfo=UTC)),
])  # fmt: skip
def test_a_wrong_id_is_refused_in_the_same_way_by_every_verb(verb: Any) -> None:
    """Before anything is sent: nobody listens at this address."""
    with TaskFlow("127.0.0.1:1", timeout=0.1) as tf:
        for wrong, said in (
            ("17", "id: '17' is not a valid id; an id looks like 0198c0de-0000-7000-8000-000000000000"),
            (17, "id: an int is not a valid id; give text, as job.id"),
            (b"17", "id: a bytes is not a valid id; give text, as job.id"),
        ):
            with pytest.raises(InvalidArgument) as refused:
                verb(tf, wrong)
            assert (str(refused.value), refused.value.field, refused.value.reason) == (said, "id", "BAD_ID")
