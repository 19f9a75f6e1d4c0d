-- The archive: what an official export holds besides conversations, which of its files messages point to, and imports as jobs.

alter table conversation add column is_slim integer not null default 0;   -- some message came only as a slim export writes it
alter table conversation add column import_digest blob;                   -- of the JSON that an export last held of it

create index conversation_slim
on conversation (account, failures, coalesce(update_time, create_time) desc)
where is_slim = 1;

-- The files of an account: images, audio, documents. Their bytes lie beside the database, under their digest.
create table asset (
    account text not null,
    id text not null,                         -- as messages point to it: file-… or file_…
    digest blob not null,                     -- SHA-256 of its bytes
    size_bytes integer not null,
    media_type text not null,                 -- by its first bytes, whatever it was called
    name text,                                -- what it was called when it was sent or made
    member text,                              -- where it lay in the export that brought it
    primary key (account, id)
) strict, without rowid;

create index asset_by_digest on asset (digest);

-- Which messages point to which assets, whether these are here or not.
create table attachment (
    account text not null,
    conversation text not null,
    node text not null,                       -- '' where only the conversation is known
    asset text not null,
    name text,
    media_type text,                          -- as the message says
    primary key (account, conversation, node, asset)
) strict, without rowid;

create index attachment_by_asset on attachment (account, asset);

-- What else an export holds (user.json, message_feedback.json, …), byte for byte.
create table export_file (
    account text not null,
    name text not null,
    content blob not null,
    modified_at integer,                      -- what its archive says, so that an older export does not win
    primary key (account, name)
) strict, without rowid;

create table import_job (
    account text not null,
    id text not null,
    state text not null check (state in ('waiting', 'running', 'done', 'failed', 'interrupted')),
    began_at integer not null,
    ended_at integer,
    outcome blob,                             -- JSON: the ledger, or the error
    primary key (account, id)
) strict, without rowid;
