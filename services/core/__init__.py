"""Pure decisions: no gRPC, no I/O, no clock, no randomness. Their results come as arguments."""
