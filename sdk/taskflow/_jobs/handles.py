"""The part that the sync and the async handle of a job share."""

from __future__ import annotations

from taskflow._jobs.core import Core
from taskflow._messages import ids
from taskflow._values.jobs import JobWarning


class Handle:
    __slots__ = ("_core", "_id", "existing", "warnings")

    def __init__(
        self, core: Core, job_id: bytes, existing: bool = False, warnings: tuple[JobWarning, ...] = ()
    ) -> None:
        self._core = core
        self._id = job_id
        self.existing = existing
        """Whether its idempotency key named a job that was there already."""
        self.warnings = warnings
        """Why no worker could run it when it was submitted: a misspelt queue or task, or no worker yet."""

    @property
    def id(self) -> str:
        return ids.show(self._id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"
