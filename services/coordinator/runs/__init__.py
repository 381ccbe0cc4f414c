"""Runs of workflows: applies their events, and writes the changes in one fenced transaction (A11)."""
