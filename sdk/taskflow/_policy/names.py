"""Names that are TaskFlow's own. A user's name holds no dot (R10), so that none can be one of these."""

RUN_OF_JOB, STEP_OF_JOB = "taskflow.run", "taskflow.step"
"""In the metadata of a job that a step of a workflow's run has made."""

MAX_KEY = 255
"""Characters of an idempotency key."""

PRIORITY_OF_RUN = "taskflow.priority"
"""In the metadata of a run: the priority of its jobs, where their steps have none."""

PRIORITIES = {"low": 2, "normal": 5, "high": 7, "critical": 9}
"""The priorities that have a name (R13)."""

BUILTIN_TASKS = frozenset({"http.call", "shell.run", "taskflow.alert"})
"""The tasks of the packaged worker. They stand in no namespace: from every one they are called by these words."""
