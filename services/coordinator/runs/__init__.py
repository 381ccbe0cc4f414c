"""Runs of workflows: their events are applied, and what follows is written in one fenced transaction (A11)."""
