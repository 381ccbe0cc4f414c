-- Quotas of a namespace. Null: unlimited.
alter table taskflow.namespaces
    add column quota_tasks integer,
    add column quota_waiting_jobs bigint,
    add column quota_payload_bytes integer;
