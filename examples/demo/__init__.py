"""`make demo`: a whole cluster on this machine runs the shop of `examples/shop`, and the results are checked."""
