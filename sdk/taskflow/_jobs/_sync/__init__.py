"""The sync handles of jobs, generated from `_async`."""
