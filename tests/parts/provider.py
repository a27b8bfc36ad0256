"""An OpenID Connect provider on this machine, as strict as a real one, that can be told to misbehave. It runs in threads of its own."""

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode, urlsplit

from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

CLIENT_ID: Final = "webmacs"
SECRET: Final = "a secret/of the client"
ALICE: Final = {
    "sub": "alice-1",
    "email": "alice@example.org",
    "email_verified": True,
    "preferred_username": "alice",
}


@cache
def rsa_key(name: str) -> RSAKey:
    """Made once a run: it takes a tenth of a second."""
    return RSAKey.generate_key(2048, {"kid": name, "use": "sig"})


@dataclass
class Answer:
    """What is answered in place of the right thing."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    never: bool = False


@dataclass
class Granted:
    """A code that waits to be exchanged."""

    redirect_uri: str
    challenge: str
    nonce: str
    person: dict[str, Any]


@dataclass
class Provider:
    issuer: str
    person: dict[str, Any] = field(default_factory=lambda: dict(ALICE))
    """Who sits before the browser."""
    in_token: tuple[str, ...] = ("sub", "email", "email_verified", "preferred_username", "groups")
    """Claims of the person that are in the ID token; userinfo has all."""
    key: RSAKey | ECKey = field(default_factory=lambda: rsa_key("first"))
    algorithm: str = "RS256"
    claims: dict[str, Any] = field(default_factory=dict)
    """Over those of the ID token; None leaves one out."""
    sign: Callable[[dict[str, Any]], str] | None = None
    about: dict[str, Any] = field(default_factory=dict)
    """Over what userinfo says."""
    discovery: dict[str, Any] = field(default_factory=dict)
    """Over the discovery document."""
    answers: dict[str, Answer] = field(default_factory=dict)
    """By path, in place of the right ones."""
    refuse_with: str | None = None
    asked: list[str] = field(default_factory=list)
    """Every path, in order."""
    secret: str | None = SECRET
    closing: threading.Event = field(default_factory=threading.Event)
    _granted: dict[str, Granted] = field(default_factory=dict)
    _access: dict[str, dict[str, Any]] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
        } | self.discovery

    def authorize(self, query: str) -> Answer:
        asked = dict(parse_qsl(query))
        if (asked["response_type"], asked["client_id"], asked["code_challenge_method"]) != ("code", CLIENT_ID, "S256"):
            return Answer(status=400)
        back = {"state": asked["state"], "iss": self.issuer, "session_state": "x"}
        if self.refuse_with is not None:
            back |= {"error": self.refuse_with, "error_description": "<b>words of the provider</b>"}
        else:
            back["code"] = secrets.token_urlsafe(16)
            self._granted[back["code"]] = Granted(asked["redirect_uri"], asked["code_challenge"], asked["nonce"], dict(self.person))
        return Answer(status=302, headers={"Location": f"{asked['redirect_uri']}?{urlencode(back)}"})

    def token(self, form: dict[str, list[str]], authorization: str) -> Answer:
        if not self._knows(form, authorization):
            return Answer(b'{"error": "invalid_client", "error_description": "words of the provider"}', 401)
        granted = self._granted.pop(form["code"][0], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"][0].encode()).digest()).rstrip(b"=").decode()
        if granted is None or granted.redirect_uri != form["redirect_uri"][0] or granted.challenge != challenge:
            return Answer(b'{"error": "invalid_grant"}', 400)
        now = int(time.time())
        told = {name: value for name, value in granted.person.items() if name in self.in_token}
        claims = told | {"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": granted.nonce} | self.claims
        claims = {name: value for name, value in claims.items() if value is not None}
        access = secrets.token_urlsafe(16)
        self._access[access] = granted.person
        header = {"alg": self.algorithm, "kid": self.key.kid}
        sign = self.sign or (lambda claims: jws.serialize_compact(header, json.dumps(claims), self.key, algorithms=[self.algorithm]))
        id_token = sign(claims)
        return Answer(json.dumps({"access_token": access, "token_type": "Bearer", "id_token": id_token}).encode())

    def _knows(self, form: dict[str, list[str]], authorization: str) -> bool:
        if self.secret is None:
            return form["client_id"] == [CLIENT_ID] and not authorization
        if authorization:
            name, _, secret = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
            return (unquote(name), unquote(secret)) == (CLIENT_ID, self.secret)
        return (form.get("client_id"), form.get("client_secret")) == ([CLIENT_ID], [self.secret])

    def answer(self, method: str, path: str, query: str, body: bytes, authorization: str) -> Answer:
        self.asked.append(path)
        if path in self.answers:
            return self.answers[path]
        match method, path:
            case "GET", "/.well-known/openid-configuration":
                return Answer(json.dumps(self.document()).encode())
            case "GET", "/authorize":
                return self.authorize(query)
            case "POST", "/token":
                return self.token(parse_qs(body.decode()), authorization)
            case "GET", "/jwks":
                return Answer(json.dumps({"keys": [self.key.as_dict(private=False)]}).encode())
            case "GET", "/userinfo" if (person := self._access.get(authorization.removeprefix("Bearer "))) is not None:
                return Answer(json.dumps(person | self.about).encode())
        return Answer(status=404)


@contextmanager
def provider(host: str = "127.0.0.1") -> Iterator[Provider]:
    """With the host `localhost` it is another site than 127.0.0.1: to a browser the port makes no difference."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            answer = running.answer(self.command, url.path, url.query, body, self.headers.get("Authorization", ""))
            if answer.never:
                running.closing.wait()
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running = Provider(f"http://{host}:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield running
    finally:
        running.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
