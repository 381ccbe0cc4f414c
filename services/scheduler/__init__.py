"""The scheduler: the public API. Validates, persists by group commit, answers. Never dispatches."""
