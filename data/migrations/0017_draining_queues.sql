-- A queue that drains takes no new jobs: what waits and what runs goes on.
alter table taskflow.queues add column draining boolean not null default false;
create index queues_draining on taskflow.queues (name) where draining;
