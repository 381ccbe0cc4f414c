"""The coordinator: owns shards of queues, feeds the queue service, records what happened. Never runs user code."""
