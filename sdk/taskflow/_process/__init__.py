"""Processes of the operating system: forks, keepers, sub-interpreters, and the proof that a process has ended."""
