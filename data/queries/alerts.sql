-- name: alert_jobs
-- Final failures of jobs, beside their attempts.
select taskflow.alert_jobs('job_failed', %(job_id)s::uuid[], %(attempt)s::integer[]);

-- name: alert_runs
-- Runs that have failed, or missed their sla, in this transaction.
select taskflow.alert_runs(%(event)s, %(ids)s::uuid[]);

-- name: insert_alert_rule
-- Nothing when the name is taken, or when there are as many rules as may be.
insert into taskflow.alert_rules (name, active, events, namespace, queue, task, workflow, kind, url, url_secret, secret,
    gather, max_messages, period, no_worker_for, backlog_age)
select %(name)s, %(active)s, %(events)s::text[], %(namespace)s, %(queue)s, %(task)s, %(workflow)s, %(kind)s, %(url)s,
    %(url_secret)s, %(secret)s, %(gather)s, %(max_messages)s, %(period)s, %(no_worker_for)s, %(backlog_age)s
where (select count(*) from taskflow.alert_rules) < %(limit)s
on conflict (name) do nothing;

-- name: change_alert_rule
update taskflow.alert_rules set active = %(active)s, events = %(events)s::text[], namespace = %(namespace)s, queue = %(queue)s,
    task = %(task)s, workflow = %(workflow)s, kind = %(kind)s, url = %(url)s, url_secret = %(url_secret)s, secret = %(secret)s,
    gather = %(gather)s, max_messages = %(max_messages)s, period = %(period)s, no_worker_for = %(no_worker_for)s,
    backlog_age = %(backlog_age)s, updated_at = (select taskflow.now())
where name = %(name)s;

-- name: lock_alert_rule
select * from taskflow.alert_rules where name = %(name)s for update;

-- name: delete_alert_rule
delete from taskflow.alert_rules where name = %(name)s;

-- name: list_alert_rules
-- By name, from beyond one on, or those of these names; each with its next message and its last one.
select r.*, g.opened_at, g.counts, g.sent[cardinality(g.sent)] as last_at, g.last_job
from taskflow.alert_rules r left join taskflow.alert_groups g on g.rule_id = r.id
where r.name > %(after)s and (%(names)s::text[] is null or r.name = any(%(names)s::text[]))
order by r.name limit %(limit)s;

-- name: forget_alerts_of_rule
-- A rule that is paused gathers nothing: what it has goes.
delete from taskflow.alert_groups g using taskflow.alert_rules r where r.id = g.rule_id and r.name = %(name)s;

-- name: forget_conditions_of_rule
-- Other selectors or bounds: what still holds is a new fact.
delete from taskflow.alert_conditions c using taskflow.alert_rules r where r.id = c.rule_id and r.name = %(name)s;

-- name: alerts_to_do
-- The one query of an interval in which nothing happens.
select exists (select from taskflow.alert_facts) as facts,
    exists (
        select from taskflow.alert_groups g join taskflow.alert_rules r on r.id = g.rule_id and r.active
        where g.opened_at + r.gather * interval '1 second' <= (select taskflow.now())
    ) as due,
    exists (select from taskflow.alert_rules r where r.active and r.events && '{no_worker,backlog_old}') as watching;

-- name: take_alert_facts
-- The oldest ones. Those of rules that are gone or paused come along, and go.
delete from taskflow.alert_facts where seq = any (array(
    select seq from taskflow.alert_facts order by seq limit %(limit)s
))
returning seq, rule_id, event, subject, attempt, queue, task, workflow, detail, at;

-- name: alert_groups
-- Rules that have facts now, and those that gather already.
select r.id, r.name, r.kind, r.url, r.url_secret, r.secret, r.gather, r.max_messages, r.period,
    g.opened_at, coalesce(g.counts, '{}') as counts, coalesce(g.first, '[]') as first, coalesce(g.sent, '{}') as sent, g.last_job,
    (select taskflow.now()) as now
from taskflow.alert_rules r left join taskflow.alert_groups g on g.rule_id = r.id
where r.active and (g.opened_at is not null or r.id = any(%(ids)s::uuid[]))
order by r.name;

-- name: put_alert_groups
insert into taskflow.alert_groups as g (rule_id, opened_at, counts, first, sent, last_job)
select w.rule_id, w.opened_at, w.counts::jsonb, w.first::jsonb, w.sent::timestamptz[], w.last_job
from unnest(%(rule_id)s::uuid[], %(opened_at)s::timestamptz[], %(counts)s::text[], %(first)s::text[], %(sent)s::text[],
    %(last_job)s::uuid[]) as w (rule_id, opened_at, counts, first, sent, last_job)
on conflict (rule_id) do update set opened_at = excluded.opened_at, counts = excluded.counts, first = excluded.first,
    sent = excluded.sent, last_job = excluded.last_job;

-- name: errors_of_attempts
select a.job_id, a.attempt, left(a.error ->> 'message', 1000) as message, taskflow.outcome_name(a.outcome) as outcome
from unnest(%(job_ids)s::uuid[], %(attempts)s::integer[]) as w (job_id, attempt)
join taskflow.attempts a using (job_id, attempt);

-- name: errors_of_runs
select id, left(error ->> 'message', 1000) as message from taskflow.runs where id = any(%(ids)s::uuid[]);

-- name: watching_rules
select * from taskflow.alert_rules r where r.active and r.events && '{no_worker,backlog_old}' order by r.name;

-- name: queues_to_watch
-- All that the rules may select, without the alerts' own.
select q.name from taskflow.queues q
where q.name <> %(own)s and (%(names)s::text[] is null or q.name = any(%(names)s::text[]))
order by q.name limit %(limit)s;

-- name: alert_conditions
select rule_id, event, queue, task from taskflow.alert_conditions;

-- name: begin_alert_conditions
-- Each is a fact once, with its beginning. A rule that was deleted meanwhile has none.
with begun as (
    insert into taskflow.alert_conditions (rule_id, event, queue, task)
    select r.id, w.event, w.queue, w.task
    from unnest(%(rule_id)s::uuid[], %(event)s::text[], %(queue)s::text[], %(task)s::text[]) as w (rule_id, event, queue, task)
    join taskflow.alert_rules r on r.id = w.rule_id and r.active
    on conflict do nothing
    returning rule_id, event, queue, task
)
insert into taskflow.alert_facts (rule_id, event, queue, task, detail)
select b.rule_id, b.event, b.queue, b.task, w.detail
from begun b
join unnest(%(rule_id)s::uuid[], %(event)s::text[], %(queue)s::text[], %(task)s::text[], %(detail)s::text[])
    as w (rule_id, event, queue, task, detail) using (rule_id, event, queue, task);

-- name: end_alert_conditions
delete from taskflow.alert_conditions c
using unnest(%(rule_id)s::uuid[], %(event)s::text[], %(queue)s::text[], %(task)s::text[]) as w (rule_id, event, queue, task)
where (c.rule_id, c.event, c.queue, c.task) = (w.rule_id, w.event, w.queue, w.task);
