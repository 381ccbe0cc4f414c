"""How long a worker that is cut off goes on."""

SOFT = 2 / 3  # of the lease, from the sending of its last acknowledged heartbeat: then it stops its handlers (R6)
