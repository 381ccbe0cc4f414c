"""The gRPC services of the coordinator, and what their calls need of several parts."""
