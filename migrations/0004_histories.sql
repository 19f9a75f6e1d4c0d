-- OpenAI clients send the whole history each time: hashes of the paths tell which conversation it is; and the models upstream offers.

-- The tree's version, one more with each change of it.
alter table conversation add column tree_version integer not null default 1;

-- The version of which the hash of every path is in history_hash; 0: no hash of any version is.
alter table conversation add column hashed_version integer not null default 0;

create index conversation_unhashed
on conversation (account, coalesce(update_time, create_time) desc)
where hashed_version <> tree_version and has_content = 1 and deleted_at is null;

-- Which conversations hold a history that begins at their root. A row says where to look, the tree itself decides: what
-- another version of it left here does no harm.
create table history_hash (
    account text not null,
    hash integer not null,                    -- of every turn from the root on, 64 bits
    conversation text not null,
    primary key (account, hash, conversation)
) strict, without rowid;

-- The models upstream offered an account, when it was last asked.
create table model_list (
    account text not null primary key,
    fetched_at integer not null,
    models blob not null                      -- JSON
) strict, without rowid;
