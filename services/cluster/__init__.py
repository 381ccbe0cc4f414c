"""`taskflow up`: embedded Postgres and every service under one supervisor."""
