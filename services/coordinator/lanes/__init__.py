"""Waiting jobs: brings lanes and deferred jobs into memory, within a budget, and feeds them to the queue service."""
