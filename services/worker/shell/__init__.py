"""`shell.run`: one command as a job, with nothing of it left when it is over."""
