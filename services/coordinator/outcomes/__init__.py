"""An attempt's end: decided, written in one fenced transaction, then acknowledged, logged and counted."""
