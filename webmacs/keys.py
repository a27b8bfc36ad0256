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

SIGNING_KEY_BYTES: Final = 64
NONCE_BYTES: Final = 12


class KeyFileError(Exception):
    """A secret file cannot be used; the message says which and how to mend it."""


def secrets_dir(data_dir: Path) -> Path:
    """The folder of the secrets, made with mode 0700 when it is missing."""
    folder = data_dir / "secrets"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def load_or_make_signing_key(data_dir: Path) -> bytes:
    """The installation's key, 64 random bytes made at the first start. Sessions are signed with it, and passwords are keyed with a
    key derived from it: losing it makes every password void. Two processes that make it at once get the same one."""
    path = secrets_dir(data_dir) / "signing.key"
    if not path.exists():
        write_secret(path, secrets.token_bytes(SIGNING_KEY_BYTES), replace=False)
    key = path.read_bytes()
    if len(key) != SIGNING_KEY_BYTES:
        raise KeyFileError(f"{path} holds {len(key)} bytes in place of {SIGNING_KEY_BYTES}: restore it from a backup.")
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
        raise KeyFileError("A sealed secret in the database belongs to another signing.key: restore that file from a backup.") from None


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
