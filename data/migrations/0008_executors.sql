-- Attempts of executors, which have no session: null for a worker's. After a takeover its executor has so long to be
-- heard of again; while there is an owner, that knows when it was heard of last.
alter table taskflow.leases add column in_progress_ms bigint;
