-- name: create_namespace
insert into taskflow.namespaces (name, app_url, quota_tasks, quota_waiting_jobs, quota_payload_bytes)
values (%(name)s, %(app_url)s, %(quota_tasks)s, %(quota_waiting_jobs)s, %(quota_payload_bytes)s) on conflict do nothing
returning *;

-- name: update_namespace
-- The settings that `columns` names; the others stay.
update taskflow.namespaces set
    app_url = case when 'app_url' = any(%(columns)s::text[]) then %(app_url)s::text else app_url end,
    quota_tasks = case when 'quota_tasks' = any(%(columns)s::text[]) then %(quota_tasks)s::integer else quota_tasks end,
    quota_waiting_jobs = case when 'quota_waiting_jobs' = any(%(columns)s::text[])
        then %(quota_waiting_jobs)s::bigint else quota_waiting_jobs end,
    quota_payload_bytes = case when 'quota_payload_bytes' = any(%(columns)s::text[])
        then %(quota_payload_bytes)s::integer else quota_payload_bytes end
where name = %(name)s returning *;

-- name: list_namespaces
select * from taskflow.namespaces order by name;

-- name: quotas_of_jobs
-- The namespaces whose jobs have a quota.
select name, quota_waiting_jobs, quota_payload_bytes from taskflow.namespaces
where quota_waiting_jobs is not null or quota_payload_bytes is not null;

-- name: lock_quota_of_tasks
-- No row: the namespace has no quota of tasks. With one, creators of its tasks follow each other.
select quota_tasks from taskflow.namespaces where name = %(namespace)s and quota_tasks is not null for no key update;

-- name: count_tasks
-- The named tasks of a namespace. Names in the namespace `default` are bare.
select count(*) as tasks from taskflow.tasks
where case when name like '%%/%%' then regexp_replace(name, '/[^/]*$', '') else 'default' end = %(namespace)s;

-- name: queues_of_namespace
-- A page of their names.
select name from taskflow.queues
where case when name like '%%/%%' then regexp_replace(name, '/[^/]*$', '') else 'default' end = %(namespace)s
    and name > %(after)s
order by name limit %(limit)s;

-- name: stored_jobs
-- The places, from 0 on, of those jobs that are stored already, by their ids or by their keys.
select w.place - 1 as place
from rows from (unnest(%(ids)s::uuid[]), unnest(%(namespaces)s::text[]), unnest(%(keys)s::text[]))
    with ordinality as w (id, namespace, key, place)
where exists (select from taskflow.jobs j where j.id = w.id)
    or exists (select from taskflow.job_keys k where k.namespace = w.namespace and k.key = w.key);
