"""Everything that touches Postgres: the only importer of psycopg."""
