"""`shell.run`: one command as a job; no process of it is left when it has ended."""
