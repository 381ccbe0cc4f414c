-- Which process a member or a worker is, so that another on the same machine can prove that it has ended: the pid namespace
-- (boot id and inodes), the pid there, and the start time in clock ticks. Null: unknown.
alter table taskflow.members
    add column pid_namespace text,
    add column pid           integer,
    add column pid_started   bigint;
alter table taskflow.workers
    add column pid_namespace text,
    add column pid_started   bigint;
