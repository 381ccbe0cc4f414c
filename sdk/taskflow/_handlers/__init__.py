"""Handlers: tasks, how a payload is bound to arguments, the job as a handler sees it, and its outcome."""
