-- Sync: how far each of upstream's lists was read, what could not be fetched and why, what was deleted and can come back.

alter table conversation add column listed_at integer;                    -- when one of upstream's lists last named it
alter table conversation add column fetched_at integer;                   -- when upstream last showed it whole
alter table conversation add column met_update_time integer;              -- what the list had said when it was fetched
alter table conversation add column failures integer not null default 0;  -- fetches that failed in a row while others did not
alter table conversation add column failure text;                         -- the code of the last of them
alter table conversation add column purged_at integer;                    -- of a tombstone: nothing else of it is left

-- What is to be fetched, said once and for every query. What a list says is held against what it said before (some servers'
-- lists run hours behind their details), or else against the content's own time; at whole seconds, since lists carry those and
-- details fractions. What failed three times is set aside until upstream says that it changed.
alter table conversation add column is_stale integer generated always as (
    deleted_at is null and is_local = 0 and is_deleted_upstream = 0 and failures < 3
    and (
        has_content = 0
        or fetched_update_time is null
        or coalesce(listed_update_time, 0) / 1000000 > coalesce(met_update_time, fetched_update_time) / 1000000
    )
) virtual;

-- The one of upstream's lists that would name it.
alter table conversation add column home text generated always as (
    case when project like 'g-p-%' then project when is_archived then 'archived' else 'plain' end
) virtual;

create index conversation_stale
on conversation (account, failures, coalesce(listed_update_time, update_time, create_time) desc)
where is_stale = 1;

create index conversation_deleted on conversation (deleted_at) where deleted_at is not null and purged_at is null;

create table listing (
    account text not null,
    list text not null,                       -- 'plain', 'archived', 'projects', or the id of a project
    name text,                                -- of a project
    read_at integer,                          -- when the last reading that came to an end began
    swept_at integer,                         -- when the last one began that went through the whole list
    ground integer,                           -- the newest update time it met: what is no newer was listed then
    absent_until integer,                     -- upstream has no such list, and is not asked for it before
    begun_at integer,                         -- the reading under way, null where none is
    is_sweep integer not null default 0,      -- it goes to the list's end, whatever it meets
    top integer,                              -- the newest update time it has met
    next_offset integer not null default 0,
    cursor text,                              -- where upstream pages by cursors
    stumbles integer not null default 0,      -- pages that did not fit to those before
    primary key (account, list)
) strict, without rowid;

create table sync (
    account text not null primary key,
    sweep_began_at integer,                   -- the full sweep under way, null where none is
    swept_at integer,                         -- when the last one that came to an end began
    sweep_not_before integer,                 -- the last one was misled
    failures integer not null default 0,      -- in a row, of upstream as a whole
    rests_until integer,                      -- nothing is tried before
    trying text,                              -- the conversation fetched last: a process that ends with it may end by it
    error_code text,
    error_text text,
    error_at integer
) strict, without rowid;
