# SPDX-License-Identifier: GPL-2.0-or-later
"""Configuration: every key, its comment and its variable; and what is wrong stops the start and says why."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

from chatgpt_rest.config import KEY_VARIABLE, PREFIX, TOKEN_VARIABLE, Config, keys, load_config
from chatgpt_rest.errors import StartError
from chatgpt_rest.model import Secret

CHECKOUT: Final = Path(__file__).parents[1]
SHIPPED: Final = CHECKOUT / "config.toml"
KEYS: Final = [(section, key) for section, names in keys().items() for key in names]

OTHER_VALUES: Final[dict[tuple[str, str], tuple[str, Any]]] = {
    ("server", "host"): ("::1", "::1"),
    ("server", "port"): ("9000", 9000),
    ("server", "public_url"): ("https://chats.example.org", "https://chats.example.org"),
    ("server", "allowed_hosts"): ("one.example, two.example,", ("one.example", "two.example")),
    ("server", "max_body_bytes"): ("1000", 1000),
    ("server", "body_timeout_seconds"): ("1.5", 1.5),
    ("server", "max_connections"): ("3", 3),
    ("server", "drain_seconds"): ("7", 7.0),
    ("server", "access_log"): ("true", True),
    ("mirror", "path"): ("/somewhere/else.sqlite", Path("/somewhere/else.sqlite")),
    ("mirror", "cache_bytes"): ("0", 0),
    ("mirror", "keep_deleted_days"): ("7", 7),
    ("upstream", "kind"): ("openai", "openai"),
    ("upstream", "base_url"): ("https://example.org/backend-api/", "https://example.org/backend-api/"),
    ("upstream", "model"): ("gpt-4", "gpt-4"),
    ("upstream", "answer_timeout_seconds"): ("20", 20.0),
    ("rate_limit", "requests_per_hour"): ("20", 20),
    ("rate_limit", "exceeded_status"): ("429", 429),
    ("auth", "accept_access_tokens"): ("no", "no"),
    ("auth", "checks_per_hour"): ("1", 1),
    ("sync", "enabled"): ("false", False),
    ("sync", "reserve"): ("0", 0),
    ("sync", "interval_seconds"): ("60", 60),
    ("sync", "archive_interval_seconds"): ("3600", 3_600),
    ("sync", "sweep_interval_days"): ("1", 1),
    ("archive", "max_upload_bytes"): ("1000000", 1_000_000),
    ("archive", "max_entries"): ("100", 100),
    ("archive", "max_unpacked_bytes"): ("2000000", 2_000_000),
    ("archive", "max_ratio"): ("50", 50),
    ("archive", "max_nested"): ("0", 0),
    ("archive", "max_conversation_bytes"): ("65536", 65_536),
    ("archive", "max_asset_bytes"): ("3000000", 3_000_000),
    ("log", "level"): ("DEBUG", "DEBUG"),
}
"""For each key a value that is not its default, as the environment writes it and as the program knows it."""

ALONG: Final[dict[tuple[str, str], dict[str, str]]] = {
    ("upstream", "kind"): {"CHATGPT_REST_UPSTREAM__BASE_URL": "https://models.example/v1/"}
}
"""What has to be set for a key to have that value."""


def value_of(config: Config, section: str, key: str) -> object:
    """What the program was told for a key."""
    return getattr(getattr(config, section), key)


def variable(section: str, key: str) -> str:
    """The environment's name of a key."""
    return f"{PREFIX}{section.upper()}__{key.upper()}"


def refusal(file: Path | None = None, environ: dict[str, str] | None = None) -> str:
    """What the program says where it does not start."""
    with pytest.raises(StartError) as raised:
        load_config(file, environ or {})
    return raised.value.text


def written(folder: Path, text: str) -> Path:
    """A configuration file."""
    file = folder / "config.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_shipped_file_names_every_key() -> None:
    """Each key of the program stands in config.toml, and nothing else does."""
    shipped = tomllib.loads(SHIPPED.read_text())
    assert {section: tuple(values) for section, values in shipped.items()} == keys()


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_key_has_one_comment(section: str, key: str) -> None:
    """The line of a key says in words what it is."""
    body = SHIPPED.read_text().split(f"[{section}]\n")[1].split("\n[")[0]
    (line,) = [line for line in body.splitlines() if re.match(rf"{key}\s*=", line)]
    assert re.search(r"  ?# \S.{8,}", line), line


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_key_can_be_overridden_by_the_environment(section: str, key: str) -> None:
    """`CHATGPT_REST_<SECTION>__<KEY>` wins over the default."""
    text, value = OTHER_VALUES[section, key]
    along = ALONG.get((section, key), {})
    assert value_of(load_config(None, along), section, key) != value
    assert value_of(load_config(None, {**along, variable(section, key): text}), section, key) == value


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_key_can_be_overridden_by_a_file(tmp_path: Path, section: str, key: str) -> None:
    """A file given with --config changes the one key that it names, and no other."""
    text, value = OTHER_VALUES[section, key]
    given = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    literal = {True: "true", False: "false"}.get(given, repr(given)) if isinstance(given, bool) else repr(given)
    file = written(tmp_path, f"[{section}]\n{key} = {literal}\n")
    along = ALONG.get((section, key), {})
    config, default = load_config(file, along), load_config(None, along)
    assert value_of(config, section, key) == value
    others = [one for one in KEYS if one not in {(section, key), ("mirror", "path")}]
    assert [value_of(config, *one) for one in others] == [value_of(default, *one) for one in others]
    assert text


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """The order is default, file, environment."""
    file = written(tmp_path, "[server]\nport = 1111\nmax_connections = 7\n")
    config = load_config(file, {variable("server", "port"): "2222"})
    assert (config.server.port, config.server.max_connections) == (2222, 7)


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    """`CHATGPT_REST_CONFIG` stands for --config, which wins where both are given."""
    file = written(tmp_path, "[server]\nport = 1111\n")
    other = tmp_path / "other.toml"
    other.write_text("[server]\nport = 2222\n")
    assert load_config(None, {"CHATGPT_REST_CONFIG": str(file)}).server.port == 1111
    assert load_config(other, {"CHATGPT_REST_CONFIG": str(file)}).server.port == 2222


def test_the_shipped_defaults_reach_chatgpt_and_nobody_else() -> None:
    """Out of the box it listens on this machine alone and knows one upstream."""
    config = load_config(None, {})
    assert config.upstream.base_url == "https://chatgpt.com/backend-api/"
    assert (config.server.host, config.server.port) == ("127.0.0.1", 8000)
    assert (config.rate_limit.requests_per_hour, config.rate_limit.exceeded_status) == (50, 500)
    assert config.accepts_access_tokens
    assert config.access_token is None
    assert config.mirror.path == CHECKOUT / "data/mirror.sqlite"


# ----------------------------------------------------------------------------------------------------- what is wrong

WRONG: Final = [
    ("server", "port", "nine", "`int`"),
    ("server", "port", "", "`int`"),
    ("server", "port", "65536", "<= 65535"),
    ("server", "port", "-1", ">= 0"),
    ("server", "host", "", "length >= 1"),
    ("server", "host", "a..b", "Expected an address"),
    ("server", "host", "x" * 70, "Expected an address"),
    ("server", "public_url", "chats.example.org", "http or https"),
    ("server", "max_body_bytes", "0", ">= 1"),
    ("server", "max_body_bytes", "9" * 30, "<="),
    ("server", "body_timeout_seconds", "nan", "> 0"),
    ("server", "body_timeout_seconds", "inf", "<= 86400"),
    ("server", "drain_seconds", "0", "> 0"),
    ("server", "access_log", "maybe", "`bool`"),
    ("mirror", "path", "", "Expected a path"),
    ("mirror", "path", "~nobody-has-this-name/m.sqlite", "no such home folder"),
    ("mirror", "cache_bytes", "-1", ">= 0"),
    ("mirror", "keep_deleted_days", "0", ">= 1"),
    ("mirror", "keep_deleted_days", "36501", "<= 36500"),
    ("mirror", "keep_deleted_days", "1.5", "`int`"),
    ("mirror", "keep_deleted_days", "a month", "`int`"),
    ("upstream", "base_url", "chatgpt.com", "ends in /"),
    ("upstream", "base_url", "https://chatgpt.com/backend-api", "ends in /"),
    ("upstream", "base_url", "ftp://chatgpt.com/", "http or https"),
    ("upstream", "base_url", "https://", "http or https"),
    ("upstream", "base_url", "http://[::1/", "http or https"),
    ("upstream", "base_url", "https://a..b/", "http or https"),
    ("upstream", "base_url", "https://chatgpt.com/a b/", "http or https"),
    ("upstream", "model", "", "length >= 1"),
    ("upstream", "answer_timeout_seconds", "86401", "<= 86400"),
    ("upstream", "kind", "claude", "one of 'chatgpt', 'openai'"),
    ("rate_limit", "requests_per_hour", "-1", ">= 0"),
    ("rate_limit", "requests_per_hour", "9223372036854775808", "<="),
    ("rate_limit", "exceeded_status", "418", "one of 500, 429"),
    ("auth", "accept_access_tokens", "perhaps", "'auto', 'yes', 'no'"),
    ("auth", "checks_per_hour", "0", ">= 1"),
    ("sync", "enabled", "2", "`bool`"),
    ("sync", "reserve", "-1", ">= 0"),
    ("sync", "interval_seconds", "59", ">= 60"),
    ("sync", "interval_seconds", "2678401", "<= 2678400"),
    ("sync", "archive_interval_seconds", "59", ">= 60"),
    ("sync", "sweep_interval_days", "0", ">= 1"),
    ("log", "level", "debug", "'DEBUG', 'INFO', 'WARNING', 'ERROR'"),
]


@pytest.mark.parametrize(("section", "key", "value", "rule"), WRONG)
def test_a_wrong_variable_is_told_with_name_rule_and_value(section: str, key: str, value: str, rule: str) -> None:
    """The message names the variable, what was expected and what came."""
    text = refusal(None, {variable(section, key): value})
    assert text.startswith(f"environment: {variable(section, key)} = ")
    assert value[:40] in text
    assert rule in text


@pytest.mark.parametrize(
    ("line", "place", "rule"),
    [
        ("[server]\nport = 'nine'", "[server] port = 'nine'", "Expected `int`, got `str`"),
        ("[server]\nport = 80.5", "[server] port = 80.5", "`int`"),
        ("[server]\nport = true", "[server] port = True", "`int`"),
        ("[server]\naccess_log = 'true'", "[server] access_log = 'true'", "`bool`"),
        ("[server]\nallowed_hosts = 'one'", "[server] allowed_hosts = 'one'", "`array`"),
        ("[server]\nallowed_hosts = [1]", "[server] allowed_hosts = [1]", "`str`"),
        ("[mirror]\nkeep_deleted_days = 0.5", "[mirror] keep_deleted_days = 0.5", "`int`"),
        ("[mirror]\npath = 3", "[mirror] path = 3", "Expected a path"),
        ('[mirror]\npath = "a\\u0000b"', "[mirror] path", "Expected a path"),
        ("[upstream]\nbase_url = 'x'", "[upstream] base_url = 'x'", "ends in /"),
        ("[rate_limit]\nexceeded_status = 503", "[rate_limit] exceeded_status = 503", "one of 500, 429"),
        ("[server]\nprot = 1", "[server] prot", "there is no such key; [server] has host, port"),
        ("[sever]\nport = 1", "[sever]", "is no section; there are [server], [mirror]"),
        ("port = 1", "[port]", "is no section"),
    ],
)
def test_a_wrong_line_is_told_with_file_section_key_rule_and_value(
    tmp_path: Path, line: str, place: str, rule: str
) -> None:
    """The message names the file, the section, the key, what was expected and what stands there."""
    file = written(tmp_path, line)
    text = refusal(file)
    assert text.startswith(f"{file}: {place}")
    assert rule in text


@pytest.mark.parametrize(
    ("name", "rule"),
    [("CHATGPT_REST_SEVER__PORT", "names no section"), ("CHATGPT_REST_SERVER__PROT", "there is no such key"),
     ("CHATGPT_REST_SERVER", "there is no such key"), ("CHATGPT_REST_", "names no section"),
     ("CHATGPT_REST_UPSTREAM__ACCESS_TOKENS", "there is no such key")],
)  # fmt: skip
def test_an_unknown_variable_stops_the_start(name: str, rule: str) -> None:
    """A typo in a variable is not silently without effect, and its value, maybe a secret, is not shown."""
    text = refusal(None, {name: "hunter2"})
    assert name in text
    assert rule in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    "address",
    ["https://me:hunter2@chatgpt.com/", "https://hunter2@chatgpt.com/", "https://chatgpt.com/?key=hunter2/",
     "https://chatgpt.com/#hunter2/"],
)  # fmt: skip
@pytest.mark.parametrize("key", ["base_url", "public_url"])
def test_a_secret_in_an_address_is_refused_and_not_shown(key: str, address: str) -> None:
    """Passwords have no place in addresses, nor in what the program says of them."""
    text = refusal(None, {variable("upstream" if key == "base_url" else "server", key): address})
    assert "hunter2" not in text
    assert "http or https" in text


def test_a_long_value_is_not_shown_whole() -> None:
    """A token that was put into the wrong variable is not printed to its end."""
    token = "eyJhbGciOiJIUzI1NiJ9." + "x" * 300 + ".the-signature"
    assert "the-signature" not in refusal(None, {variable("log", "level"): token})


@pytest.mark.parametrize("section", ["upstream", "auth"])
@pytest.mark.parametrize(("name", "its_variable"), [("access_token", TOKEN_VARIABLE), ("api_key", KEY_VARIABLE)])
def test_a_secret_in_the_file_is_refused(tmp_path: Path, section: str, name: str, its_variable: str) -> None:
    """Secrets never stand in config.toml, and what stood there is not shown."""
    file = written(tmp_path, f"[{section}]\n{name} = 'hunter2'\n")
    text = refusal(file)
    assert "hunter2" not in text
    assert str(file) in text
    if section == "upstream":
        assert its_variable in text
        assert "$CREDENTIALS_DIRECTORY" in text


OPENAI: Final = {
    "CHATGPT_REST_UPSTREAM__KIND": "openai",
    "CHATGPT_REST_UPSTREAM__BASE_URL": "https://api.openai.com/v1/",
}


@pytest.mark.parametrize("base_url", ["https://chatgpt.com/backend-api/", "https://chatgpt.com/v1/"])
def test_an_api_is_not_at_chatgpts_address(base_url: str) -> None:
    """The default of the one kind is no address of the other: the message says what to write."""
    text = refusal(None, {**OPENAI, "CHATGPT_REST_UPSTREAM__BASE_URL": base_url})
    assert "https://api.openai.com/v1/" in text


def test_openais_address_needs_its_kind() -> None:
    """Taken for ChatGPT's, it would be sent people's access tokens: the message says what to write."""
    text = refusal(None, {"CHATGPT_REST_UPSTREAM__BASE_URL": "https://api.openai.com/v1/"})
    assert 'kind = "openai"' in text
    assert KEY_VARIABLE in text


def test_the_rule_of_an_address_shows_one_of_each_kind() -> None:
    """Nearly every API's is written without its last slash somewhere."""
    text = refusal(None, {**OPENAI, "CHATGPT_REST_UPSTREAM__BASE_URL": "https://api.openai.com/v1"})
    assert "ends in /" in text
    assert "/backend-api/" in text
    assert "/v1/" in text.partition("such as")[2]


def test_no_limit_is_for_an_api_alone() -> None:
    """Requests without end would lock a ChatGPT account out, and the message says so."""
    unlimited = {variable("rate_limit", "requests_per_hour"): "0"}
    assert load_config(None, {**OPENAI, **unlimited}).rate_limit.requests_per_hour == 0
    assert 'kind = "openai"' in refusal(None, unlimited)


def test_an_api_proves_no_access_tokens() -> None:
    """Told to accept them, the program does not start; `auto` is no, wherever the API is."""
    choice = variable("auth", "accept_access_tokens")
    assert "local keys" in refusal(None, {**OPENAI, choice: "yes"})
    here = {**OPENAI, "CHATGPT_REST_UPSTREAM__BASE_URL": "http://127.0.0.1:11434/v1/"}
    assert not load_config(None, here).accepts_access_tokens
    assert not load_config(None, {**OPENAI, choice: "no"}).accepts_access_tokens


def test_the_api_key_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    """As the access token does; it does not show in the configuration's own text."""
    config = load_config(None, {**OPENAI, KEY_VARIABLE: " sk-hunter2\n", "CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert config.api_key == Secret("sk-hunter2")
    assert config.api_key_file == tmp_path / "api_key"
    assert "hunter2" not in repr(config)
    assert load_config(None, OPENAI).api_key is None


@pytest.mark.parametrize(
    ("content", "rule"),
    [(None, "no such file"), (b"[server", "no valid TOML"), (b"\xff", "no valid TOML"), (b"a = 1\na = 2", "TOML")],
    ids=["missing", "syntax", "encoding", "twice"],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, rule: str) -> None:
    """Whatever is wrong with the file as a whole, its name is told."""
    file = tmp_path / "config.toml"
    if content is not None:
        file.write_bytes(content)
    text = refusal(file)
    assert text.startswith(f"{file}: ")
    assert rule in text


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """--config with a folder is told as such."""
    assert "cannot be read: Is a directory" in refusal(tmp_path)


# --------------------------------------------------------------------------------------------------- what follows


def test_a_relative_mirror_starts_at_the_files_folder(tmp_path: Path) -> None:
    """Not at the folder that the program happens to be started in."""
    file = written(tmp_path, "[mirror]\npath = 'here/mirror.sqlite'\n")
    assert load_config(file, {}).mirror.path == tmp_path / "here/mirror.sqlite"
    assert load_config(file, {}).control_socket == tmp_path / "here/control.sock"


def test_a_home_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` in the path of the mirror is the user's home."""
    monkeypatch.setenv("HOME", "/home/someone")
    config = load_config(None, {variable("mirror", "path"): "~/mirror.sqlite"})
    assert config.mirror.path == Path("/home/someone/mirror.sqlite")


@pytest.mark.parametrize(("text", "token"), [("a-token", Secret("a-token")), ("  a-token\n", Secret("a-token")),
                                             ("", None), (" \n", None)])  # fmt: skip
def test_the_token_comes_from_the_environment(text: str, token: Secret | None) -> None:
    """Its blanks are cut off, and blank is none; it does not show in the configuration's own text."""
    config = load_config(None, {TOKEN_VARIABLE: text})
    assert config.access_token == token
    assert "a-token" not in repr(config)


def test_the_credentials_folder_names_a_file(tmp_path: Path) -> None:
    """`$CREDENTIALS_DIRECTORY/access_token` is where systemd puts the token; it need not exist."""
    assert load_config(None, {"CREDENTIALS_DIRECTORY": str(tmp_path)}).access_token_file == tmp_path / "access_token"
    assert load_config(None, {"CREDENTIALS_DIRECTORY": ""}).access_token_file is None
    assert load_config(None, {}).access_token_file is None


@pytest.mark.parametrize(
    ("base_url", "accepts"),
    [
        ("https://chatgpt.com/backend-api/", True),
        ("https://CHATGPT.com/backend-api/", True),
        ("http://127.0.0.1:8001/backend-api/", True),
        ("http://127.8.9.1/backend-api/", True),
        ("http://[::1]:8001/", True),
        ("http://localhost:8001/", True),
        ("https://example.org/backend-api/", False),
        ("https://chatgpt.com.example.org/", False),
        ("https://api.chatgpt.com/", False),
        ("https://localhost.example.org/", False),
        ("http://10.0.0.1/", False),
    ],
)
def test_strangers_tokens_are_accepted_where_upstream_can_judge_them(base_url: str, accepts: bool) -> None:
    """`auto` trusts chatgpt.com and this machine; yes and no are what they say."""
    environ = {variable("upstream", "base_url"): base_url}
    choice = variable("auth", "accept_access_tokens")
    assert load_config(None, environ).accepts_access_tokens is accepts
    assert load_config(None, {**environ, choice: "yes"}).accepts_access_tokens is True
    assert load_config(None, {**environ, choice: "no"}).accepts_access_tokens is False


def test_the_hosts_that_are_served_are_those_named() -> None:
    """The address listened on, localhost, the public name and what allowed_hosts adds, in lower case."""
    environ = {
        variable("server", "public_url"): "https://Chats.Example.org:8443/x",
        variable("server", "allowed_hosts"): "Two.example",
    }
    hosts = load_config(None, environ).allowed_hosts
    assert hosts == {"localhost", "127.0.0.1", "chats.example.org", "two.example"}
