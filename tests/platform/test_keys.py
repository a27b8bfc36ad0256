"""The secret files of an installation: one that lasts, and one that signs sessions and is changed."""

from pathlib import Path
from uuid import uuid4

import jwt
import pytest
from parts.installation import command
from parts.rest import serve

from webmacs import accounts, clock, keys
from webmacs.http import guard


def test_an_older_installation_keeps_its_passwords_and_its_sealed_secrets(tmp_path: Path) -> None:
    older = keys.load_or_make_signing_key(tmp_path)
    sealed = keys.seal(keys.derive(older, "sealing"), b"secret", b"of this")
    installation = keys.load_or_make_installation_key(tmp_path)
    assert accounts.password_key(installation) == accounts.password_key(older)
    keys.rotate_signing_key(tmp_path, clock.now_us())
    assert keys.load_or_make_installation_key(tmp_path) == installation
    assert keys.load_or_make_signing_key(tmp_path) != older
    assert keys.unseal(keys.derive(installation, "sealing"), sealed, b"of this") == b"secret"


def test_a_new_installation_signs_and_keys_with_different_keys(tmp_path: Path) -> None:
    assert keys.load_or_make_installation_key(tmp_path) != keys.load_or_make_signing_key(tmp_path)
    for file in (tmp_path / "secrets").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600


def test_the_former_key_is_accepted_for_as_long_as_its_sessions_may_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session_keys = guard.SessionKeys(tmp_path)
    first = session_keys.signing()
    now = clock.now_us()
    keys.rotate_signing_key(tmp_path, now)
    second = session_keys.signing()
    assert second != first
    for seconds, accepted in ((0, [second, first]), (guard.SESSION_S - 1, [second, first]), (guard.SESSION_S, [second])):
        monkeypatch.setattr(clock, "now_us", lambda seconds=seconds: now + seconds * 1_000_000)
        assert session_keys.accepted() == accepted
    keys.rotate_signing_key(tmp_path, clock.now_us())
    assert first not in session_keys.accepted()


async def test_a_running_backend_takes_the_new_key_and_ends_no_session(database: str, tmp_path: Path) -> None:
    async with serve(database, tmp_path) as rest, rest.client("viewer") as before, rest.client() as client:
        rotated = command("key", "rotate", WEBMACS_DATA_DIR=str(tmp_path))
        assert rotated.returncode == 0, rotated.stderr
        assert (await before.get("/api/v1/auth/me")).status_code == 200
        claims = jwt.decode(rest.tokens["viewer"], options={"verify_signature": False}) | {"jti": str(uuid4())}
        by_new = jwt.encode(claims, rest.session_key, "HS256")
        assert (await client.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {by_new}"})).status_code == 200
        command("key", "rotate", WEBMACS_DATA_DIR=str(tmp_path))
        rest.app.state.parts.known.forget()
        assert (await before.get("/api/v1/auth/me")).status_code == 401


def test_a_lost_installation_key_is_not_made_of_a_signing_key_that_was_rotated(tmp_path: Path) -> None:
    keys.load_or_make_installation_key(tmp_path)
    keys.rotate_signing_key(tmp_path, clock.now_us())
    (tmp_path / "secrets" / "installation.key").unlink()
    with pytest.raises(keys.KeyFileError, match="restore it from a backup"):
        keys.load_or_make_installation_key(tmp_path)


@pytest.mark.parametrize("name", ["installation.key", "signing.key", "signing.former.key"])
def test_a_key_that_was_cut_is_not_replaced(tmp_path: Path, name: str) -> None:
    keys.load_or_make_installation_key(tmp_path)
    keys.rotate_signing_key(tmp_path, clock.now_us())
    path = tmp_path / "secrets" / name
    path.write_bytes(path.read_bytes()[:-1])
    load = keys.load_or_make_installation_key if name == "installation.key" else guard.SessionKeys
    with pytest.raises(keys.KeyFileError, match=name):
        load(tmp_path)
