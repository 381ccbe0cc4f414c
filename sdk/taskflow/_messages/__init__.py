"""Messages of the wire from arguments of callers, which are checked here, and values from messages."""
