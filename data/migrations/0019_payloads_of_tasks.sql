-- A named task's own payload, for runs and firings that bring none.
alter table taskflow.tasks add column payload bytea, add column encoding smallint;
