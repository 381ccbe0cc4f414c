"""The coordinator: owns shards of queues, feeds the queue service, records outcomes. Never runs user code."""
