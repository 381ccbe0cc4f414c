"""Executors of attempts: the event loop of the handlers, threads, processes."""
