"""The way to the cluster: the I/O thread of a client, its channels, its clock."""
