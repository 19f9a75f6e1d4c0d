# SPDX-License-Identifier: GPL-2.0-or-later
"""Configuration, read once: config.toml, then the environment, then the credentials folder, into one frozen Config.

Every key has its default in the shipped config.toml, and a file given with `--config` changes only what it names. An
environment variable `CHATGPT_REST_<SECTION>__<KEY>` overrides each. Whatever is unknown or out of bounds stops the
start with StartError, which names the place, the key, the rule and the value. Secrets never stand in config.toml.
"""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta
from yarl import URL

from chatgpt_rest.errors import StartError
from chatgpt_rest.model import Secret

PREFIX: Final = "CHATGPT_REST_"
TOKEN_VARIABLE: Final = "CHATGPT_REST_UPSTREAM__ACCESS_TOKEN"  # noqa: S105 - a name, not a token
KEY_VARIABLE: Final = "CHATGPT_REST_UPSTREAM__API_KEY"
CONFIG_VARIABLE: Final = "CHATGPT_REST_CONFIG"
TOKEN_FILE: Final = "access_token"  # noqa: S105 - a name, not a token
KEY_FILE: Final = "api_key"
KEY_WAYS: Final = f"give one as {KEY_VARIABLE}, or as the file {KEY_FILE} in $CREDENTIALS_DIRECTORY"
"""How the owner configures the key of an API."""

_CHECKOUT: Final = Path(__file__).parent.parent / "config.toml"
_PACKAGED: Final = Path(__file__).parent / "config.toml"

_OPENAI_HOST: Final = "api.openai.com"
_MOST: Final = 2**53
_SECRETS: Final = {TOKEN_FILE: TOKEN_VARIABLE, KEY_FILE: KEY_VARIABLE}

Text = Annotated[str, Meta(max_length=1000)]
Name = Annotated[str, Meta(min_length=1, max_length=1000)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Natural = Annotated[int, Meta(ge=0, le=_MOST)]
Positive = Annotated[int, Meta(ge=1, le=_MOST)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Days = Annotated[int, Meta(ge=1, le=36_500)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """`[server]`: where it listens and what it lets in."""

    host: Name
    port: Port
    public_url: Text
    allowed_hosts: tuple[str, ...]
    max_body_bytes: Positive
    body_timeout_seconds: Seconds
    max_connections: Positive
    drain_seconds: Seconds
    access_log: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorConfig:
    """`[mirror]`: where the database is. A relative path starts at the folder of the configuration file."""

    path: Path
    cache_bytes: Natural
    keep_deleted_days: Days


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamConfig:
    """`[upstream]`: which ChatGPT, or which API, and how long it may take."""

    kind: Literal["chatgpt", "openai"]
    base_url: Name
    model: Name
    answer_timeout_seconds: Seconds

    @property
    def keeps_conversations(self) -> bool:
        """Whether upstream is the conversations' home. One that only answers leaves them to the mirror."""
        return self.kind == "chatgpt"

    @property
    def is_loopback(self) -> bool:
        """Whether upstream is on this machine, as a simulated one is."""
        host = URL(self.base_url).host or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitConfig:
    """`[rate_limit]`: the budget of each account. No requests an hour mean that there is no limit."""

    requests_per_hour: Natural
    exceeded_status: Literal[500, 429]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthConfig:
    """`[auth]`: who is let in."""

    accept_access_tokens: Literal["auto", "yes", "no"]
    checks_per_hour: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncConfig:
    """`[sync]`: what the server does upstream of its own accord."""

    enabled: bool
    reserve: Natural
    interval_seconds: Annotated[int, Meta(ge=60, le=31 * 86_400)]
    archive_interval_seconds: Annotated[int, Meta(ge=60, le=366 * 86_400)]
    sweep_interval_days: Annotated[int, Meta(ge=1, le=3660)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveConfig:
    """`[archive]`: the bounds of what an import takes in."""

    max_upload_bytes: Positive
    max_entries: Positive
    max_unpacked_bytes: Positive
    max_ratio: Positive
    max_nested: Annotated[int, Meta(ge=0, le=8)]
    max_conversation_bytes: Annotated[int, Meta(ge=65_536, le=128 * 1024 * 1024)]
    max_asset_bytes: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """`[log]`: what is written to standard error."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything the program was told. `file` is where most of it came from, for messages."""

    server: ServerConfig
    mirror: MirrorConfig
    upstream: UpstreamConfig
    rate_limit: RateLimitConfig
    auth: AuthConfig
    sync: SyncConfig
    archive: ArchiveConfig
    log: LogConfig
    file: Path
    access_token: Secret | None
    """From the environment: lasts as long as the process."""
    access_token_file: Path | None
    """In the credentials folder: read again whenever it changes. It need not exist yet, or may be empty."""
    api_key: Secret | None
    """What an upstream of kind `openai` is asked with. From the environment, as above."""
    api_key_file: Path | None
    """As above."""

    @property
    def accepts_access_tokens(self) -> bool:
        """Whether a stranger's token may be checked upstream: some compatible servers accept any token at all, and an
        API knows none.
        """
        if not self.upstream.keeps_conversations:
            return False
        if self.auth.accept_access_tokens == "auto":
            return self.upstream.is_loopback or _is_chatgpt(self.upstream.base_url)
        return self.auth.accept_access_tokens == "yes"

    @property
    def control_socket(self) -> Path:
        """Where a command on this machine reaches the running server: beside the database."""
        return self.mirror.path.with_name("control.sock")

    @property
    def assets_folder(self) -> Path:
        """Where the bytes of assets lie: beside the database, and nowhere that a web server would look."""
        return self.mirror.path.with_name("assets")

    @property
    def work_folder(self) -> Path:
        """Where uploads and unpacked archives lie while they are needed: on the disk that has room for the mirror."""
        return self.mirror.path.with_name("work")

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """The names, lower case and with no port, that a Host header may carry beside the address connected to."""
        public = URL(self.server.public_url).host if self.server.public_url else None
        names = {"localhost", self.server.host, *self.server.allowed_hosts, *({public} if public else ())}
        return frozenset(name.lower() for name in names)


_SECTIONS: Final = ("server", "mirror", "upstream", "rate_limit", "auth", "sync", "archive", "log")
_HINTS: Final = {
    name: get_type_hints(kind, include_extras=True)
    for name, kind in get_type_hints(Config).items()
    if name in _SECTIONS
}  # by section and key; evaluated anew for each key, they were most of what reading a configuration took
_LONGEST_SHOWN: Final = 80  # of a wrong value, in characters: enough to know it again


def load_config(file: Path | None, environ: Mapping[str, str]) -> Config:
    """Read the configuration. Raises StartError naming place, key, rule and value of the first thing that is wrong."""
    defaults_file = _CHECKOUT if _CHECKOUT.exists() else _PACKAGED
    named = file or (Path(environ[CONFIG_VARIABLE]) if CONFIG_VARIABLE in environ else None)
    chosen = (named or defaults_file).absolute()
    values = _checked(_read_toml(defaults_file), place=str(defaults_file))
    if named is not None:
        _overlay(values, _checked(_read_toml(chosen), place=str(chosen)))
    _overlay(values, _from_environment(environ))
    hints = get_type_hints(Config)
    sections = {name: _section(hints[name], name, values[name], place=str(defaults_file)) for name in _SECTIONS}
    folder = Path.cwd() if chosen == _PACKAGED else chosen.parent
    sections["mirror"]["path"] = folder / sections["mirror"]["path"]
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    config = Config(
        **{name: hints[name](**sections[name]) for name in _SECTIONS},
        file=chosen,
        access_token=_secret(environ, TOKEN_VARIABLE),
        access_token_file=Path(credentials) / TOKEN_FILE if credentials else None,
        api_key=_secret(environ, KEY_VARIABLE),
        api_key_file=Path(credentials) / KEY_FILE if credentials else None,
    )
    _check_upstream(config)
    return config


def keys() -> dict[str, tuple[str, ...]]:
    """Every section and its keys, as config.toml and the environment name them."""
    hints = get_type_hints(Config)
    return {name: tuple(field.name for field in fields(hints[name])) for name in _SECTIONS}


def _secret(environ: Mapping[str, str], variable: str) -> Secret | None:
    text = environ.get(variable, "").strip()
    return Secret(text) if text else None


def _check_upstream(config: Config) -> None:
    """What one key alone cannot tell: whether they fit the kind of upstream."""
    if config.upstream.keeps_conversations:
        if URL(config.upstream.base_url).host == _OPENAI_HOST:
            raise StartError(
                f'[upstream] base_url = "{config.upstream.base_url}" needs kind = "openai" beside it, and an API key: '
                f"{KEY_WAYS}. As it is, access tokens of ChatGPT's would be sent to OpenAI's API"
            )
        if config.rate_limit.requests_per_hour == 0:
            raise StartError(
                "[rate_limit] requests_per_hour = 0 means no limit, which only an API with a key of yours may have "
                '([upstream] kind = "openai"); ChatGPT would lock the account out'
            )
        return
    if _is_chatgpt(config.upstream.base_url):
        raise StartError(
            '[upstream] kind = "openai" needs the base_url of an API, such as "https://api.openai.com/v1/" for '
            "OpenAI's own; chatgpt.com takes no API keys"
        )
    if config.auth.accept_access_tokens == "yes":
        raise StartError(
            '[auth] accept_access_tokens = "yes" does not go with [upstream] kind = "openai": an API can prove no '
            "access token; clients use local keys (server.py key create)"
        )


def _is_chatgpt(base_url: str) -> bool:
    return URL(base_url).host == "chatgpt.com"


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StartError(f"{file}: there is no such file; name another with --config") from None
    except OSError as error:
        raise StartError(f"{file}: it cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartError(f"{file}: it is no valid TOML: {error}") from error


def _checked(values: Mapping[str, Any], *, place: str) -> dict[str, dict[str, Any]]:
    """The converted values of the keys that a file names."""
    found: dict[str, dict[str, Any]] = {}
    for name, section in values.items():
        if name not in _SECTIONS or not isinstance(section, dict):
            raise StartError(f"{place}: [{name}] is no section; there are {', '.join(f'[{s}]' for s in _SECTIONS)}")
        for secret, variable in _SECRETS.items():
            if name == "upstream" and secret in section:
                raise StartError(
                    f"{place}: [upstream] {secret} must not stand in a file that others read; "
                    f"give it as {variable}, or as the file {secret} in $CREDENTIALS_DIRECTORY"
                )
        found[name] = {
            key: _convert(name, key, value, place=f"{place}: [{name}] {key}") for key, value in section.items()
        }
    return found


def _from_environment(environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or variable in {*_SECRETS.values(), CONFIG_VARIABLE}:
            continue
        section, _, key = variable.removeprefix(PREFIX).lower().partition("__")
        if section not in _SECTIONS:
            raise StartError(f"environment: {variable} names no section of config.toml ({', '.join(_SECTIONS)})")
        place = f"environment: {variable}"
        found.setdefault(section, {})[key] = _convert(section, key, text, place=place, is_text=True)
    return found


def _convert(section: str, key: str, value: object, *, place: str, is_text: bool = False) -> object:
    hints = _HINTS[section]
    if key not in hints:
        raise StartError(f"{place}: there is no such key; [{section}] has {', '.join(hints)}")
    hint = hints[key]
    if is_text and hint == tuple[str, ...]:
        value = tuple(part.strip() for part in str(value).split(",") if part.strip())
    try:
        converted = msgspec.convert(value, type=hint, strict=not is_text, dec_hook=_path)
    except msgspec.ValidationError as error:
        rule = str(error).removesuffix(" - at `$`")
        if get_origin(hint) is Literal:
            rule = f"Expected one of {', '.join(map(repr, get_args(hint)))}"
        elif is_text:
            rule = rule.removesuffix(", got `str`")  # which all of the environment is
        raise StartError(f"{place}{_shown(value)}: {rule}") from None
    if key in _ADDRESSES and not _ADDRESSES[key][0](converted):
        raise StartError(f"{place}{_shown(value)}: {_ADDRESSES[key][1]}")
    return converted


def _shown(value: object) -> str:
    """The wrong value, but for what may be a secret: a password in an address, a token in the wrong place."""
    text = repr(value)
    if isinstance(value, str) and any(mark in value for mark in "@?#"):
        return ""
    return f" = {text}" if len(text) <= _LONGEST_SHOWN else f" = {text[:_LONGEST_SHOWN]}…"


def _path(kind: type[Any], value: object) -> object:
    if kind is not Path or not isinstance(value, str) or not value or "\0" in value:
        raise msgspec.ValidationError("Expected a path")
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise msgspec.ValidationError("Expected a path; there is no such home folder") from None
    if not path.name:
        raise msgspec.ValidationError("Expected the path of a file")
    return path


def _overlay(values: dict[str, dict[str, Any]], over: Mapping[str, Mapping[str, Any]]) -> None:
    for section, entries in over.items():
        values.setdefault(section, {}).update(entries)


def _section(kind: type[Any], name: str, values: Mapping[str, Any], *, place: str) -> dict[str, Any]:
    missing = [field.name for field in fields(kind) if field.name not in values]
    if missing:
        raise StartError(f"{place}: [{name}] lacks its default of {', '.join(missing)}")
    return dict(values)


def _is_http(address: str) -> bool:
    try:
        url = URL(address)
    except ValueError:
        return False
    is_plain = not (url.user or url.password or url.query_string or url.fragment or " " in address)
    return url.scheme in {"http", "https"} and is_plain and _is_host(url.raw_host or "")


def _is_host(name: str) -> bool:
    try:
        return bool(name.encode("idna"))
    except UnicodeError:
        return False


_ADDRESSES: Final[dict[str, tuple[Callable[[str], bool], str]]] = {
    "host": (_is_host, "Expected an address or the name of one, such as 127.0.0.1"),
    "base_url": (
        lambda value: _is_http(value) and value.endswith("/"),
        "Expected an http or https address that ends in /, such as https://chatgpt.com/backend-api/ or http://host/v1/",
    ),
    "public_url": (lambda value: not value or _is_http(value), "Expected an http or https address, or nothing"),
}
"""What no type can say: the rule of a key, as a test and in words."""
