"""Settings, logs and accounts: what is said when something is wrong, and what is never said."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from parts.installation import ROOT, command

from webmacs import accounts, keys, logs
from webmacs.commands.settings import markdown
from webmacs.settings import Settings, SettingsError, environment, load


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"WEBMACS_PROT": "1"}, "WEBMACS_PROT is not a setting of WebMACS; did you mean WEBMACS_PORT? `webmacs settings` lists them all."),
        ({"WEBMACS_ZZZ": "1"}, "WEBMACS_ZZZ is not a setting of WebMACS. `webmacs settings` lists them all."),
        ({"WEBMACS_PORT": "65536"}, "WEBMACS_PORT cannot be used: it should be less than or equal to 65535."),
        ({"WEBMACS_DATABASE_POOL_SIZE": "1"}, "WEBMACS_DATABASE_POOL_SIZE cannot be used: it should be greater than or equal to 2."),
        ({"WEBMACS_DATABASE_URL": "mysql://me:pa55word@host/x"}, "WEBMACS_DATABASE_URL cannot be used: it must begin with postgresql://."),
        ({"WEBMACS_SSO_ISSUER": "https://id.x"}, "WEBMACS_SSO_ISSUER cannot be used: single sign-on needs WEBMACS_PUBLIC_URL too."),
        ({"WEBMACS_SSO_ISSUER": "id.x"}, "WEBMACS_SSO_ISSUER cannot be used: it must be as https://id.example.org/realms/plant."),
        ({"WEBMACS_SSO_ISSUER": "https://id.x?a"}, "WEBMACS_SSO_ISSUER cannot be used: it must be as https://id.example.org/realms/plant."),
        (
            {"WEBMACS_PUBLIC_URL": "https://x/y"},
            "WEBMACS_PUBLIC_URL cannot be used: it must be as https://webmacs.example.org, with nothing",
        ),
        ({"WEBMACS_PUBLIC_URL": "http://["}, "WEBMACS_PUBLIC_URL cannot be used: Invalid IPv6 URL."),
        ({"WEBMACS_SSO_SCOPES": "email"}, "WEBMACS_SSO_SCOPES cannot be used: it must hold the scope openid."),
        ({"WEBMACS_SSO_ROLE_MAPPING": "a=viewer,b=root"}, "WEBMACS_SSO_ROLE_MAPPING cannot be used: 'b=root' is not as group=role, with"),
        ({"WEBMACS_TRUSTED_PROXIES": "10.0.0.1/8"}, "WEBMACS_TRUSTED_PROXIES cannot be used: value is not a valid IPv4 or IPv6 network."),
        ({"WEBMACS_SETTINGS_FILE": "/nowhere"}, "WEBMACS_SETTINGS_FILE names /nowhere, which cannot be read: No such file or directory"),
    ],
)
def test_a_wrong_setting_is_one_sentence_with_its_name(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(environ)
    assert str(caught.value).startswith(sentence)
    assert "pa55word" not in str(caught.value)


def test_an_unknown_setting_stops_the_start_with_exit_code_78() -> None:
    result = command("up", WEBMACS_DATADIR="x")
    assert result.returncode == 78
    assert result.stderr.startswith("webmacs: WEBMACS_DATADIR is not a setting of WebMACS; did you mean WEBMACS_DATA_DIR?")
    assert result.stderr.count("\n") == 1


def test_single_sign_on_is_set_by_an_issuer_an_address_and_a_client() -> None:
    environ = {"SSO_ISSUER": "https://id.x/realms/a/", "PUBLIC_URL": "https://plant.x:8443/", "SSO_CLIENT_ID": "webmacs"}
    settings = load({f"WEBMACS_{name}": value for name, value in environ.items()} | {"WEBMACS_SSO_ROLE_MAPPING": "/a=b=admin, c=viewer"})
    assert (settings.sso_issuer, settings.public_url) == ("https://id.x/realms/a/", "https://plant.x:8443")
    assert settings.sso_role_mapping == ("/a=b=admin", "c=viewer")
    assert load(environment(settings)) == settings


def test_the_bounds_themselves_are_taken() -> None:
    assert [load({"WEBMACS_PORT": port}).port for port in ("0", "65535")] == [0, 65535]


def test_settings_of_the_controller_and_of_tests_are_nobody_elses_business() -> None:
    assert load({"WEBMACS_CONTROLLER_URL": "x", "WEBMACS_TEST_SEED": "1", "PATH": "/bin"}) == Settings()


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "webmacs.toml"
    file.write_text('host = "0.0.0.0"\nport = 1\nlog_level = "debug"\nallowed_origins = ["https://a"]\n')
    environ = {"WEBMACS_SETTINGS_FILE": str(file), "WEBMACS_PORT": "2", "WEBMACS_HOST": "::1"}
    settings = load(environ, {"port": 3})
    assert (settings.port, settings.host, settings.log_level, settings.allowed_origins) == (3, "::1", "debug", ("https://a",))


def test_an_unknown_name_in_the_file_suggests_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "webmacs.toml"
    file.write_text("prot = 1\n")
    with pytest.raises(SettingsError, match=r"prot in .* is not a setting of WebMACS; did you mean port\?"):
        load({"WEBMACS_SETTINGS_FILE": str(file)})


def test_another_process_loads_the_same_settings() -> None:
    lists = {"allowed_origins": ("https://a", "https://b"), "trusted_proxies": ("10.0.0.2", "fd00::/64")}
    settings = Settings.model_validate({"port": 0, "secure_cookies": True, "database_url": "postgresql://x@y/z"} | lists)
    assert load(environment(settings)) == settings


def test_the_page_of_settings_is_the_one_that_the_command_prints() -> None:
    assert (ROOT / "docs" / "settings.md").read_text("utf-8") == markdown()


def test_the_url_of_the_database_is_not_printed() -> None:
    assert "pa55word" not in repr(Settings(database_url="postgresql://me:pa55word@host/x"))
    assert "pa55word" not in command("settings", WEBMACS_DATABASE_URL="postgresql://me:pa55word@host/x").stdout


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    stream = io.StringIO()
    logs.set_up("info", stream)
    yield stream
    root.handlers = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_a_log_line_is_one_json_object_with_its_fields_and_the_request(lines: io.StringIO) -> None:
    token = logs.request_id.set("r-1")
    logs.get("webmacs.x").info("flush_committed", runs=412, place=Path("/x"))
    logs.request_id.reset(token)
    logs.get("webmacs.x").debug("never")
    record = json.loads(lines.getvalue())
    assert record.pop("time").endswith("+00:00")
    assert record == {
        "level": "info", "logger": "webmacs.x", "event": "flush_committed", "runs": 412, "place": "/x", "request_id": "r-1",
    }  # fmt: skip


def test_a_warnings_exception_is_its_reason_and_only_an_errors_a_traceback(lines: io.StringIO) -> None:
    for level in (logging.WARNING, logging.ERROR):
        try:
            raise ConnectionRefusedError(111, "Connect call failed")
        except OSError:  # as the pool does at each retry while the database is away
            logging.getLogger("asyncpg.pool").log(level, "Failed to restore the pool connection floor; retrying", exc_info=True)
    warned, failed = (json.loads(line) for line in lines.getvalue().splitlines())
    assert warned["event"] == failed["event"] == "Failed to restore the pool connection floor; retrying"
    assert (warned["reason"], "exception" in warned) == ("ConnectionRefusedError: [Errno 111] Connect call failed", False)
    assert "Traceback" in failed["exception"]


def test_of_a_flood_of_one_kind_ten_lines_are_written_and_the_rest_counted(lines: io.StringIO) -> None:
    handler = logging.getLogger().handlers[0]
    for second, count in ((1, 11), (2, 10), (3, 1)):
        for _ in range(count):
            handler.emit(logging.makeLogRecord({"name": "webmacs.x", "msg": "refused", "levelname": "INFO", "created": float(second)}))
    events = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [record["event"] for record in events] == ["refused"] * 10 + ["lines_left_out"] + ["refused"] * 11
    assert events[10]["count"] == 1


@pytest.mark.parametrize("password", ["twelve chars", "ä" * 256, "with \0 inside it"])
def test_a_password_of_any_characters_is_kept_keyed_and_salted(password: str) -> None:
    key = accounts.password_key(b"k" * 64)
    stored = accounts.hash_password(key, password)
    assert accounts.verify_password(key, password, stored)
    assert not accounts.verify_password(key, password + "x", stored)
    assert not accounts.verify_password(accounts.password_key(b"l" * 64), password, stored)


@pytest.mark.parametrize("length", [11, 257])
def test_a_password_out_of_bounds_is_refused(length: int) -> None:
    with pytest.raises(accounts.AccountError, match="12 to 256"):
        accounts.check_password("x" * length)


async def test_only_the_hash_of_a_credential_is_stored_and_its_writer_is_made_with_it(database: str) -> None:
    conn = await asyncpg.connect(database)
    public_id, credential = await accounts.create_source(conn, "press-4")
    assert credential.startswith("wms_")
    assert len(credential) == 47
    row = await conn.fetchrow("SELECT s.*, w.id AS writer FROM sources s JOIN writers w ON w.source_id = s.id")
    assert row is not None
    assert (row["public_id"], row["credential_hash"], row["writer"]) == (public_id, accounts.credential_hash(credential), 2)
    with pytest.raises(accounts.AccountError, match="There is a source called press-4 already"):
        await accounts.create_source(conn, "press-4")
    await conn.close()


async def test_a_reset_password_ends_the_sessions_that_began_before(database: str) -> None:
    conn = await asyncpg.connect(database)
    key = accounts.password_key(keys.secrets.token_bytes(64))
    await accounts.create_user(conn, key, email="Eve@example.org", username="eve", password="a first password", role="admin")
    before = await conn.fetchval("SELECT sessions_valid_from FROM users")
    await accounts.reset_password(conn, key, email="eve@EXAMPLE.org", password="a second password")
    row = await conn.fetchrow("SELECT * FROM users")
    assert row is not None
    assert row["sessions_valid_from"] > before
    assert accounts.verify_password(key, "a second password", row["password_hash"])
    with pytest.raises(accounts.AccountError, match=r"There is a user with the e-mail eve@example\.org already"):
        await accounts.create_user(conn, key, email="eve@example.org", username="other", password="a third password", role="viewer")
    await conn.close()
