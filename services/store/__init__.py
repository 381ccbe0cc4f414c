"""Postgres. The only package that accesses it: one function per named query of `data/queries`."""
