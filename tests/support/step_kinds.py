# step_kinds.py
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from taskflow_server.core.workflow import BadValue, Jobs, JobSpec, Kind, Moment, Strict


class LettersMeta(Strict):
    to: list[str] = Field(min_length=1, description="For whom.")
    text: str = Field(description="A template: the letter.")


class Letters(Kind):
    """One letter to each, all at once."""

    name = "letters"
    meta = LettersMeta

    def plan(self, meta: Mapping[str, Any], moment: Moment) -> Jobs:
        if not meta["text"]:
            raise BadValue("is empty", path="text")
        return Jobs([JobSpec("write-letter", {"to": to, "text": meta["text"]}) for to in meta["to"]], parallel=True)

    def result(self, meta: Mapping[str, Any], results: Sequence[Any]) -> Any:
        return {"letters": len(results)}
