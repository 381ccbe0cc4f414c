-- Retention by partition (protocol.md, A10).

-- Days that are being dropped. A row stands from before the last look at a day until the last row of the day is gone:
-- the day takes no further jobs, and none of its jobs is retried. A run that was killed is gone on with from here.
create table taskflow.closed_days (
    day         date        primary key,
    low         uuid        not null,                               -- its jobs: low <= id < high
    high        uuid        not null,
    closed_at   timestamptz not null default now()
);

-- On the partition of a closed day. An error as if it had no partition, which it is about to have.
create function taskflow.refuse_closed_day() returns trigger
language plpgsql as $$
begin
    raise exception 'the day of job % is past its retention, and is being dropped', new.id using errcode = 'check_violation';
end $$;
