"""The end of an attempt: decided, written in one fenced transaction, then acknowledged, logged and counted."""
