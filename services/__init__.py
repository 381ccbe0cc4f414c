"""TaskFlow's services: scheduler, coordinator, queue, worker, and what they share."""
