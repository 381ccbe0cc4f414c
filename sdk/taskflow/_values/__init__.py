"""Plain values: the answers of the cluster, and the arguments of callers, checked before anything is sent."""
