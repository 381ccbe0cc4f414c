"""The groups of a client: `tf.jobs`, `tf.queues`, `tf.schedules` and the like, each with both of its faces."""
