"""The gateway: HTTP for people and for programs in any language. Translates to gRPC; holds no state."""
