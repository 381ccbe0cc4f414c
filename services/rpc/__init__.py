"""Parts that all gRPC servers and channels of the services share."""
