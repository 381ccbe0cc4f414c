"""Plain values: what the cluster answers, and what errors carry. Imports nothing else of TaskFlow."""
