-- The first schema: accounts and what proves them, conversations as trees, asks, and the log of requests that went upstream.

-- Times are integer microseconds since the epoch. Raw JSON is a blob, byte for byte what came.
create table account (
    account text not null primary key,
    name text unique,
    email text,
    created_at integer not null,
    listed_at integer,                            -- when upstream's list was last read from its top
    is_list_whole integer not null default 0,     -- whether it was ever read to its end
    blocked_until integer,                        -- upstream's own hourly limit: nothing may leave before
    blocked_body blob                             -- JSON: the words it said that with
) strict;

create table credential (
    account text not null,
    digest blob not null,                         -- keyed: worth nothing without the key file beside the database
    kind text not null check (kind in ('access_token', 'api_key')),
    name text,                                    -- of an API key
    created_at integer not null,
    expires_at integer,
    primary key (account, digest)
) strict, without rowid;

create unique index credential_by_digest on credential (digest);
create unique index credential_by_name on credential (name) where name is not null;

create table conversation (
    account text not null,
    id text not null,
    title text,
    create_time integer,
    update_time integer,
    current_node text,
    is_archived integer not null default 0,
    is_starred integer not null default 0,
    project text,
    model text,
    envelope blob,                                -- every raw member but the mapping; null until its content came
    has_content integer not null default 0,
    is_local integer not null default 0,          -- upstream knows nothing of it under this id
    is_title_pending integer not null default 0,  -- set here, still to be pushed
    is_deleted_upstream integer not null default 0,
    deleted_at integer,                           -- a tombstone: deleted here, and nothing brings it back by itself
    listed_update_time integer,                   -- what upstream's list said last
    fetched_update_time integer,                  -- what it said when the content was fetched
    primary key (account, id)
) strict;

create index conversation_by_update on conversation (account, coalesce(update_time, create_time) desc, id);

create table node (
    account text not null,
    conversation text not null,
    id text not null,
    position integer not null,                    -- in the order of its source
    parent text,
    children text,                                -- JSON: the order its source gave them in
    extra blob,                                   -- JSON: further members of the node
    message blob,
    create_time integer,
    shape integer not null,
    completeness integer not null,
    is_absent_upstream integer not null default 0,
    primary key (account, conversation, id)
) strict;

create table ask (
    account text not null,
    id text not null,
    conversation text not null,
    prompt_node text not null,
    previous_node text,                           -- where the conversation stood before
    answer_node text,
    state text not null check (state in ('asked', 'answered', 'incomplete', 'uncertain', 'refused')),
    asked_at integer not null,
    idempotency_digest blob,
    request_digest blob not null,                 -- what was asked, so that a reused key is told from a retry
    primary key (account, id)
) strict, without rowid;

create unique index ask_by_idempotency on ask (account, idempotency_digest) where idempotency_digest is not null;
create index ask_under_way on ask (account, id) where state = 'asked';

-- The bucket's state and the audit trail. A row is a token taken; it is never removed to give one back.
create table upstream_request (
    account text not null,                        -- '' where upstream refused the token: then it is nobody's
    id text not null,
    taken_at integer not null,
    arrived_by integer not null,                  -- no later than this it reached upstream
    method text not null,
    path text not null,                           -- a template: no ids, no tokens
    outcome text,                                 -- status or fault; null while it is under way
    is_check integer not null default 0,          -- the first check of an unknown token
    primary key (account, id)
) strict, without rowid;

create index upstream_request_by_arrival on upstream_request (account, arrived_by);
create index upstream_check_by_arrival on upstream_request (arrived_by) where is_check = 1;

create table model_block (
    account text not null,
    model text not null,
    blocked_until integer not null,               -- the cap of one model holds back asks to that model only
    blocked_body blob,                            -- JSON: the words upstream said that with
    primary key (account, model)
) strict, without rowid;

-- What the wall clock said at which time since boot, when a process last opened this file: tells a jump of the clock from time.
create table clock_reading (
    id integer not null primary key check (id = 1),
    boot_id text not null,
    elapsed integer not null,
    wall integer not null
) strict;
