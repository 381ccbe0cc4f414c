"""`TaskFlow` and `AsyncTaskFlow`: one core, two faces."""
