"""The gRPC services of the coordinator, and the code of calls that concern several parts."""
