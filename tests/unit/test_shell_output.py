"""A command's output as lines of a log: the same however it arrives, whole, and within bounds."""

from __future__ import annotations

import asyncio
import itertools

from hypothesis import example, given
from hypothesis import strategies as st

from taskflow_server.worker.shell.output import MAX_LINE, TAIL, Budget, Output

text = st.text(st.sampled_from("aü€🎉 \n"), max_size=200)
long_text = st.builds(lambda part, times: part * times, text, st.integers(1, 80))


def logged(chunks: list[bytes], limit: int = 1 << 30) -> tuple[list[str], str]:
    """The lines of the log, and the tail."""
    lines: list[str] = []

    async def feed() -> str:
        budget = Budget(limit, lambda line, level: lines.append(line))
        budget.hurry()
        output = Output(budget, "info")
        for chunk in chunks:
            await output.feed(chunk)
        await output.close()
        budget.close()
        return output.tail

    return lines, asyncio.run(feed())


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(long_text, st.lists(st.integers(0, 1 << 20), max_size=20))
@example("x" * MAX_LINE + "\ny\n", [MAX_LINE])
def test_lines_are_the_same_in_whatever_pieces_they_arrive(said: str, places: list[int]) -> None:
    data = said.encode()

    assert logged(cut(data, places)) == logged([data])


@given(long_text)
@example("€" * MAX_LINE + "\n")
def test_a_line_is_whole_or_cut_between_characters(said: str) -> None:
    lines, tail = logged([said.encode()])

    assert lines == [piece for line in said.removesuffix("\n").split("\n") for piece in pieces(line) if said]
    assert tail.lstrip("\ufffd") == said[len(said) - len(tail.lstrip("\ufffd")) :]
    assert len(tail.lstrip("\ufffd").encode()) <= TAIL


def pieces(line: str) -> list[str]:
    """As many characters as fit into the limit's bytes, each time."""
    found, size = [""], 0
    for character in line:
        if (size := size + len(character.encode())) > MAX_LINE:
            found, size = [*found, ""], len(character.encode())
        found[-1] += character
    return found


@given(st.lists(st.integers(0, 300), min_size=1, max_size=100), st.integers(0, 5_000))
def test_what_is_kept_is_the_beginning_and_the_rest_is_counted(sizes: list[int], limit: int) -> None:
    said = ["x" * size for size in sizes]

    lines, _ = logged(["".join(line + "\n" for line in said).encode()], limit)

    whole = sum(size + 64 for size in sizes) <= limit
    kept = lines if whole else lines[:-1]
    assert kept == said[: len(kept)]
    assert sum(map(len, kept)) <= limit
    if not whole:
        assert lines[-1].startswith(f"{len(said) - len(kept):,} more lines were left out")


def test_of_what_a_terminal_writes_over_itself_the_last_is_kept() -> None:
    assert logged([b"10 %\r50 %\r100 %\ndone\r\n"])[0] == ["100 %", "done"]


def test_what_is_no_utf_8_is_shown_as_such() -> None:
    assert logged([b"a\xffb\n"])[0] == ["a\ufffdb"]
