-- A paused queue hands nothing out: its jobs wait, those that run go on.
alter table taskflow.queues add column paused boolean not null default false;
create index queues_paused on taskflow.queues (shard) where paused;
