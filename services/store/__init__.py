"""Postgres. The only package that speaks to it: one function per named query of `data/queries`."""
