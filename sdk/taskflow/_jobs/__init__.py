"""Jobs from the side of the app that submits them: the calls of a client, their batching, handles and waits."""
