"""The hot path's state, pure: which attempt of a job is where, and what may be handed out."""
