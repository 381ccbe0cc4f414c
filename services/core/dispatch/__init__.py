"""The state of the hot path, pure: where the attempt of each job is, and which jobs may be handed out."""
