"""The SDK's worker runtime as a service process, with health, reflection and metrics."""
