"""Pure logic: no gRPC, no I/O, no clock, no randomness. They come as arguments."""
