"""Parts that every service process shares: settings, lifecycle, logs, metrics, the clock, batching, failpoints."""
