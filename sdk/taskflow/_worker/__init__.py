"""The worker: polls for attempts, runs their handlers, and reports their outcomes."""
