"""The service's settings: flags beat variables (``CAMPAIGNS_…``), they beat the file, that beats defaults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from aggregator.errors import ConfigurationError, ConfigurationErrors
from aggregator.faults import problem_of
from aggregator.layers import nearest
from aggregator.masking import SecretUrl
from aggregator.units import Duration
from consumers.tarantool import parse_url
from producers.campaigns.model import Quiet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from consumers.tarantool import Address

PREFIX = "CAMPAIGNS_"
LEAST_TOKEN = 24
"""Characters: less could be tried out."""
_URL_HELP = (
    "a URL like tarantool://user:password@host:3301,host2:3301/ is needed; / and @ of a password are"
    " written %2F and %40"
)
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")


def parse_quiet(value: Any) -> Any:
    """Return ``"22:00-08:00"`` as quiet hours, ``"none"`` as None."""
    if not isinstance(value, str):
        return value
    if value.strip().lower() in {"none", "off"}:
        return None
    begin, dash, end = value.partition("-")
    if not dash:
        raise ValueError(f"{value!r} says no hours; 22:00-08:00, or none, is needed")
    try:
        return Quiet.model_validate({"from": begin.strip(), "to": end.strip()})
    except ValidationError as exc:
        raise ValueError(exc.errors()[0]["msg"].removeprefix("Value error, ")) from None


def _token(value: str) -> str:
    if len(value) < LEAST_TOKEN or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError(f"{LEAST_TOKEN} printable characters at least are needed; `token` makes one")
    return value


def _shards(value: Any) -> Any:
    """Check each shard's name and URL; a lone URL is the one shard ``main``."""
    if isinstance(value, str):
        value = {"main": value}
    for name, url in value.items() if isinstance(value, dict) else ():
        if not _SHARD.fullmatch(str(name)):
            raise ValueError(f"{name!r}: letters, digits, - and _ are allowed in a shard's name, 32 at most")
        try:
            parse_url(url)
        except (ConfigurationError, ValueError, TypeError, AttributeError):
            # their texts may hold a piece of a password
            raise ValueError(f"{name}: {_URL_HELP}") from None
    return value


def _field(default: Any, description: str, **limits: Any) -> Any:
    """Return a field whose default is written, and checked, as a user would write it."""
    return Field(default, description=description, **limits)


Secret = Annotated[str, AfterValidator(_token)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class CampaignSettings(BaseSettings):
    """What the campaign service was told."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    shards: Annotated[dict[str, SecretUrl], BeforeValidator(_shards)] = Field(
        default_factory=dict,
        min_length=1,
        description="the servers with the users: a URL for each shard, its replicas separated by commas",
    )
    host: Text = Field("127.0.0.1", description="the address to listen on")
    port: int = Field(8620, ge=0, le=65_535, description="the port to listen on; 0 = any free one")
    token: Secret | None = Field(None, description="what callers authenticate with", repr=False)
    token_file: Path | None = Field(None, description="a file that holds it")
    feedback_token: Secret | None = Field(
        None, description="what the sending side may use instead, for POST /feedback alone", repr=False
    )
    timeout: Duration = _field("2s", "the longest wait for one server's answer", gt=0, le=60)
    slow_timeout: Duration = _field("60s", "the same, where all users are read", gt=0, le=3600)
    interval: Duration = _field(
        "1s", "how often progress is asked for, as long as somebody watches", ge=0.1, le=60
    )
    watchers: int = Field(64, ge=1, le=10_000, description="the most who may watch progress at once")
    span: Duration = _field(
        "48h", "how long a campaign may take that sets no end of its own", ge=60, le=366 * 86_400
    )
    quiet: Annotated[Quiet | None, BeforeValidator(parse_quiet)] = _field(
        "22:00-08:00",
        "hours without pushes, by each device's own clock, for campaigns that say nothing of it",
    )
    log_format: Literal["auto", "console", "json", "logfmt"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _one_token(self) -> CampaignSettings:
        if self.token is not None and self.token_file is not None:
            raise ValueError("token and token_file are both set; remove one of them")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read flags, then variables; the file is laid under them by :func:`load`."""
        del settings_cls, dotenv_settings, file_secret_settings
        return init_settings, env_settings

    def servers(self) -> Iterator[tuple[str, Address]]:
        """Yield shard and address of each server."""
        for shard, url in self.shards.items():
            for address in parse_url(url.get_secret_value()):
                yield shard, address

    def secret(self) -> str:
        """Return the token; ``ConfigurationError`` says how to make one where it is missing."""
        if self.token is not None:
            return self.token
        if self.token_file is None:
            problem = "none is set; `python -m producers.campaigns token --file FILE` makes a token_file"
            raise ConfigurationError("token", problem)
        try:
            return _token(self.token_file.read_text().strip())
        except OSError as exc:
            raise ConfigurationError(
                "token_file", f"{str(self.token_file)!r} cannot be read: {exc.strerror}"
            ) from None
        except ValueError as exc:
            raise ConfigurationError("token_file", str(exc)) from None


def load(flags: Mapping[str, Any], path: Path | None) -> CampaignSettings:
    """Return the settings; ``ConfigurationErrors`` with all faults at once."""
    table = _file(path) if path else {}
    known = CampaignSettings.model_fields
    faults = [
        ConfigurationError(name, f"no such setting{nearest(name.replace('-', '_'), known)}")
        for name in table
        if name not in known
    ]
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        environment = EnvSettingsSource(CampaignSettings, env_ignore_empty=True)()
    except SettingsError:
        problem = 'JSON is needed, like {"main": "tarantool://…"}; or CAMPAIGNS_SHARDS__MAIN=tarantool://…'
        raise ConfigurationError(f"{PREFIX}SHARDS", problem) from None
    under = {name: value for name, value in table.items() if name not in environment and name in known}
    try:
        settings = CampaignSettings(**{**under, **given})
    except ValidationError as exc:
        faults += [_fault(error) for error in exc.errors(include_url=False)]
    except SettingsError as exc:
        faults.append(ConfigurationError(PREFIX, str(exc)))
    if faults:
        raise ConfigurationErrors(faults)
    return settings


def _fault(error: Any) -> ConfigurationError:
    where = [str(part) for part in error["loc"]]
    if not where:
        return ConfigurationError("token", str(error["ctx"]["error"]))
    field = CampaignSettings.model_fields[where[0]]
    if error["type"] == "too_short":
        return ConfigurationError(where[0], "none is named; a table of URLs is needed, or --shards URL")
    if where[0] in {"shards", "token", "feedback_token"}:
        return ConfigurationError(".".join(where), str(error["msg"]).removeprefix("Value error, "))
    return ConfigurationError(".".join(where), problem_of(error, field))


def _file(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ConfigurationError("--config", f"no file at {str(path)!r}; the path of a TOML file is needed")
    try:
        return dict(TomlConfigSettingsSource(CampaignSettings, toml_file=path).toml_data)
    except OSError as exc:
        raise ConfigurationError("--config", f"{str(path)!r} cannot be read: {exc.strerror}") from None
    except ValueError as exc:  # UnicodeDecodeError and tomllib.TOMLDecodeError
        raise ConfigurationError("--config", f"{str(path)!r} is no TOML: {exc}") from None
