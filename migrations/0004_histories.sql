-- OpenAI clients send the whole history each time: hashes of the paths tell which conversation it is; and the models upstream offers.

alter table conversation add column is_hashed integer not null default 0;   -- every path of its tree is in history_hash

create index conversation_unhashed
on conversation (account, coalesce(update_time, create_time) desc)
where is_hashed = 0 and has_content = 1;

-- Where a history ends that begins at the root of a conversation: its hash says what to look for, the tree itself decides.
create table history_hash (
    account text not null,
    hash blob not null,                       -- of every message from the root to this node, texts alone
    conversation text not null,
    node text not null,
    primary key (account, hash, conversation, node)
) strict, without rowid;

-- The models upstream offered an account, when it was last asked.
create table model_list (
    account text not null primary key,
    fetched_at integer not null,
    models blob not null                      -- JSON
) strict, without rowid;
