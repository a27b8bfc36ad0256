"""Every setting, in one frozen struct. `load(environ)` is called once, at the command line; nothing else reads the environment.

A setting comes from the command line, else from WEBMACS_<NAME> in the environment, else from the TOML file that WEBMACS_SETTINGS_FILE
names, else it has its default. `webmacs settings` prints the table; docs/settings.md is made from it.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork, ValidationError, ValidationInfo, field_validator

PREFIX: Final = "WEBMACS_"
FILE_VARIABLE: Final = "WEBMACS_SETTINGS_FILE"
FOREIGN_PREFIXES: Final = ("WEBMACS_CONTROLLER_", "WEBMACS_TEST_")
"""Variables of others: of the controller, and of the test suite."""

ROLES: Final = ("viewer", "operator", "admin")
RATE_MAX: Final = 100_000_000

Origin: TypeAlias = Literal["command line", "environment", "file", "default"]


class SettingsError(Exception):
    """A setting is unknown or wrong. The message is one sentence with its name and the fix; the command ends with exit code 78."""


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    host: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen on; 0.0.0.0 listens on every network."""
    port: int = Field(default=8000, ge=0, le=65_535)
    """TCP port to listen on; 0 takes a free one."""
    data_dir: Path = Path("data")
    """Directory of everything this installation keeps: the embedded database, secrets, the controller's spool."""
    database_url: str | None = Field(default=None, repr=False)
    """postgresql://user:password@host/database of a PostgreSQL 17 or newer; without it `webmacs up` runs an embedded server."""
    database_pool_size: int = Field(default=8, ge=2, le=200)
    """Connections to the database that the backend keeps."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important lines that are still logged."""
    allowed_origins: tuple[str, ...] = ()
    """Origins (https://host, comma-separated) whose pages may use sockets and cookies; empty allows the own origin only."""
    secure_cookies: bool = False
    """Mark the session cookie Secure; set it wherever TLS stands in front."""
    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()
    """Networks (10.0.0.2, 10.1.0.0/24, comma-separated) of the proxies whose X-Forwarded-For is believed; empty believes none."""
    requests_per_minute: int = Field(default=6_000, ge=1, le=RATE_MAX)
    """Requests that one session, API token or source may make a minute, as many at once; those with readings have limits of their own."""
    address_requests_per_minute: int = Field(default=12_000, ge=1, le=RATE_MAX)
    """Requests and openings of sockets from one address (IPv6: one /64) a minute, whoever asks; without those that carry readings."""
    readings_requests_per_minute: int = Field(default=12_000, ge=1, le=RATE_MAX)
    """Requests with readings that one session, API token or source may make a minute."""
    readings_mb_per_minute: int = Field(default=3_000, ge=1, le=1_000_000)
    """Megabytes of readings that one session, API token or source may send by REST a minute."""
    address_readings_requests_per_minute: int = Field(default=60_000, ge=1, le=RATE_MAX)
    """Requests with readings from one address a minute."""
    user_sockets_max: int = Field(default=20, ge=1, le=100_000)
    """WebSockets that one user may have open."""
    address_sockets_max: int = Field(default=200, ge=1, le=100_000)
    """WebSockets from one address (IPv6: one /64), controllers' and people's; raise it where many come through one router."""
    postgres_os_user: str | None = None
    """Existing user of the operating system that runs the embedded database when WebMACS is started by root."""
    public_url: str | None = None
    """Address by which browsers reach WebMACS, as https://webmacs.example.org; single sign-on needs it."""
    sso_client_id: str | None = Field(default=None, min_length=1)
    """Name under which the sign-on provider knows WebMACS."""
    sso_client_secret_file: Path | None = None
    """File that holds the client's secret; without one WebMACS is a public client, which PKCE alone protects."""
    sso_issuer: str | None = None
    """Issuer of the OpenID Connect provider, exactly as it writes it; without one single sign-on is off. See docs/sso.md."""
    sso_provider_name: str = Field(default="single sign-on", min_length=1, max_length=50)
    """What the button of the login page calls the provider."""
    sso_scopes: str = "openid email profile"
    """Scopes that are asked for, separated by spaces."""
    sso_allow_creation: bool = False
    """Make an account for people whom the provider signs in and WebMACS does not know."""
    sso_default_role: Literal["viewer", "none"] = "viewer"
    """Role of those whom no group maps to another; with none only members of a mapped group come in."""
    sso_groups_claim: str = Field(default="groups", min_length=1)
    """Claim that holds the groups of a person."""
    sso_role_mapping: tuple[str, ...] = ()
    """Groups and the roles they give (group=role, comma-separated); when set, it decides the role at each single sign-on."""

    @field_validator("allowed_origins", "trusted_proxies", "sso_role_mapping", mode="before")
    @classmethod
    def split_list(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def check_scheme(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("postgresql://", "postgres://")):
            raise ValueError("it must begin with postgresql://")
        return value

    @field_validator("public_url")
    @classmethod
    def check_public_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        beyond = parts.path.strip("/") + parts.query + parts.fragment
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or beyond:
            raise ValueError("it must be as https://webmacs.example.org, with nothing after the host and its port")
        return value.rstrip("/")

    @field_validator("sso_issuer")
    @classmethod
    def check_issuer(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query + parts.fragment:
            raise ValueError("it must be as https://id.example.org/realms/plant")
        for needed in ("public_url", "sso_client_id"):
            if info.data.get(needed) is None:
                raise ValueError(f"single sign-on needs {variable(needed)} too")
        return value

    @field_validator("sso_scopes")
    @classmethod
    def check_scopes(cls, value: str) -> str:
        if "openid" not in value.split():
            raise ValueError("it must hold the scope openid")
        return value

    @field_validator("sso_role_mapping")
    @classmethod
    def check_role_mapping(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for part in value:
            group, _, role = part.rpartition("=")
            if not group or role not in ROLES:
                raise ValueError(f"{part!r} is not as group=role, with one of the roles {', '.join(ROLES)}")
        return value


def load(environ: Mapping[str, str], given: Mapping[str, object] | None = None) -> Settings:
    """The settings of this process; `given` are those of the command line. Raises SettingsError."""
    return load_with_origins(environ, given)[0]


def load_with_origins(environ: Mapping[str, str], given: Mapping[str, object] | None = None) -> tuple[Settings, dict[str, Origin]]:
    """The settings, and for each field where its value comes from. Raises SettingsError."""
    from_file = _read_file(environ[FILE_VARIABLE]) if environ.get(FILE_VARIABLE) else {}
    from_environment = _read_environment(environ)
    values = from_file | from_environment | dict(given or {})
    origins: dict[str, Origin] = {}
    for name in Settings.model_fields:
        if given and name in given:
            origins[name] = "command line"
        elif name in from_environment:
            origins[name] = "environment"
        else:
            origins[name] = "file" if name in from_file else "default"
    try:
        return Settings.model_validate(values), origins
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(_explain(str(first["loc"][0]), first["msg"], origins, environ)) from None


def environment(settings: Settings) -> dict[str, str]:
    """The variables from which another process of ours loads the same settings."""
    values = {name: getattr(settings, name) for name in Settings.model_fields}
    return {
        variable(name): ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for name, value in values.items()
        if value is not None
    }


def variable(name: str) -> str:
    """The environment variable of a field."""
    return PREFIX + name.upper()


def _read_environment(environ: Mapping[str, str]) -> dict[str, object]:
    known = {variable(name): name for name in Settings.model_fields}
    values: dict[str, object] = {}
    for key, value in environ.items():
        if not key.startswith(PREFIX) or key.startswith(FOREIGN_PREFIXES) or key == FILE_VARIABLE:
            continue
        if key not in known:
            near = _nearest(key.removeprefix(PREFIX), [name.removeprefix(PREFIX) for name in (*known, FILE_VARIABLE)], PREFIX)
            raise SettingsError(f"{key} is not a setting of WebMACS{near} `webmacs settings` lists them all.")
        values[known[key]] = value
    return values


def _read_file(path: str) -> dict[str, Any]:
    try:
        values = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise SettingsError(
            f"{FILE_VARIABLE} names {path}, which cannot be read: {os.strerror(error.errno or 0)}; correct or unset it."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not a TOML file: {error}; correct it.") from None
    for key in values:
        if key not in Settings.model_fields:
            raise SettingsError(f"{key} in {path} is not a setting of WebMACS{_nearest(key, list(Settings.model_fields))} Correct it.")
    return values


def _nearest(name: str, known: list[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else "."


def _explain(name: str, message: str, origins: Mapping[str, Origin], environ: Mapping[str, str]) -> str:
    where = {
        "command line": f"--{name.replace('_', '-')}",
        "environment": variable(name),
        "file": f"{name} in {environ.get(FILE_VARIABLE, '')}",
        "default": name,
    }[origins[name]]
    reason = message.removeprefix("Value error, ").replace("Input should", "it should")
    return f"{where} cannot be used: {reason}. It is for: {(Settings.model_fields[name].description or '').rstrip('.')}."
