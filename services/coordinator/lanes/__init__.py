"""What waits: lanes and deferred jobs come into memory, within a budget, and reach the queue service."""
