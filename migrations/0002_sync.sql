-- Sync: how far each of upstream's lists was read, what could not be fetched and why, what was deleted and can come back.

alter table conversation add column listed_at integer;                    -- when one of upstream's lists last named it
alter table conversation add column fetched_at integer;                   -- when upstream last showed it whole
alter table conversation add column failures integer not null default 0;  -- fetches that failed in a row while others did not
alter table conversation add column failure text;                         -- the code of the last of them
alter table conversation add column purged_at integer;                    -- of a tombstone: nothing else of it is left

-- What is to be fetched, said once and for every query. Lists carry whole seconds and details fractions: compared exactly,
-- every conversation would stay stale for ever. What failed three times is set aside until upstream says that it changed.
alter table conversation add column is_stale integer generated always as (
    deleted_at is null and is_local = 0 and is_deleted_upstream = 0 and failures < 3
    and (
        has_content = 0
        or fetched_update_time is null
        or coalesce(listed_update_time, 0) / 1000000 > fetched_update_time / 1000000
    )
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
    failures integer not null default 0,      -- in a row, of upstream as a whole
    rests_until integer,                      -- nothing is tried before
    error_code text,
    error_text text,
    error_at integer
) strict, without rowid;
