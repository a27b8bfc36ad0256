"""Secret files of an installation: `<data_dir>/secrets/`, a folder only its owner can enter, files only its owner can read."""

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 64
NONCE_BYTES: Final = 12
FORMER: Final = "signing.former.key"


class KeyFileError(Exception):
    """A secret file cannot be used; the message says which and how to mend it."""


def secrets_dir(data_dir: Path) -> Path:
    """The folder of the secrets, made with mode 0700 when it is missing."""
    folder = data_dir / "secrets"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def load_or_make_installation_key(data_dir: Path) -> bytes:
    """The installation's key, 64 random bytes made at the first start. Passwords are keyed and secrets in the database sealed with keys
    derived from it: losing it makes all of them void. An installation of before this file keyed them with its signing key, which is
    copied. Two processes that make it at once get the same one."""
    folder = secrets_dir(data_dir)
    path, signing = folder / "installation.key", folder / "signing.key"
    if not path.exists():
        if (folder / FORMER).exists():  # the signing key is another by now
            raise KeyFileError(f"{path} is missing: restore it from a backup; without it no password and no sealed secret can be read.")
        write_secret(path, signing.read_bytes() if signing.exists() else secrets.token_bytes(KEY_BYTES), replace=False)
    return _read_key(path)


def load_or_make_signing_key(data_dir: Path) -> bytes:
    """The key that signs sessions now, 64 random bytes made at the first start; see rotate_signing_key."""
    path = secrets_dir(data_dir) / "signing.key"
    if not path.exists():
        write_secret(path, secrets.token_bytes(KEY_BYTES), replace=False)
    return _read_key(path)


def signing_key_state(data_dir: Path) -> tuple[int, int] | None:
    """What differs after a rotation; None when there is no key."""
    try:
        file = (data_dir / "secrets" / "signing.key").stat()
    except FileNotFoundError:
        return None
    return file.st_mtime_ns, file.st_ino


def load_former_signing_key(data_dir: Path) -> tuple[bytes, int] | None:
    """The signing key before the last rotation, and when that was (µs UTC); None when there was none."""
    path = secrets_dir(data_dir) / FORMER
    if not path.exists():
        return None
    content = path.read_bytes()
    if len(content) != KEY_BYTES + 8:
        raise KeyFileError(f"{path} is damaged: remove it; the sessions that began before the last rotation then end.")
    return content[:KEY_BYTES], int.from_bytes(content[KEY_BYTES:], "big")


def rotate_signing_key(data_dir: Path, now_us: int) -> None:
    """Makes a new signing key and keeps the former beside it. A kill between the two steps loses nothing."""
    folder = secrets_dir(data_dir)
    write_secret(folder / FORMER, load_or_make_signing_key(data_dir) + now_us.to_bytes(8, "big"))
    write_secret(folder / "signing.key", secrets.token_bytes(KEY_BYTES))


def _read_key(path: Path) -> bytes:
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise KeyFileError(f"{path} holds {len(key)} bytes in place of {KEY_BYTES}: restore it from a backup.")
    return key


def derive(key: bytes, purpose: str) -> bytes:
    """32 bytes for one purpose, so that one key file serves several uses and none of them reveals another."""
    return hmac.new(key, b"webmacs/" + purpose.encode(), hashlib.sha256).digest()


def seal(key: bytes, plain: bytes, context: bytes) -> bytes:
    """Encrypts what the database keeps and must not know (AES-256-GCM, a random nonce first). `key`: 32 bytes of derive(); `context` says
    what it belongs to, and must be the same when it is opened."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, context)


def unseal(key: bytes, sealed: bytes, context: bytes) -> bytes:
    """Raises KeyFileError when it was sealed with another key, or for another context."""
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
    except InvalidTag:
        raise KeyFileError(
            "A sealed secret in the database belongs to another installation.key: restore that file from a backup."
        ) from None


def write_secret(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Writes a file of mode 0600, whole or not at all, through a kill at any moment. Without `replace` an existing file stays."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            part.replace(path)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(part, path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
