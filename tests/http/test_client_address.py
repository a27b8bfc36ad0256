"""Whose address a request counts for: the peer's, and behind proxies that are configured the last one that is none of them."""

from ipaddress import ip_network

import pytest
from starlette.requests import HTTPConnection

from webmacs.http import guard
from webmacs.settings import Settings

PROXIES = Settings(trusted_proxies=(ip_network("10.0.0.2"), ip_network("192.168.7.0/24"), ip_network("fd00::/64")))


def connection(peer: str | None, *forwarded: str) -> HTTPConnection:
    headers = [(b"x-forwarded-for", line.encode()) for line in forwarded]
    return HTTPConnection({"type": "http", "client": None if peer is None else (peer, 50_000), "headers": headers})


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("10.0.0.2", ["203.0.113.5"], "203.0.113.5"),
        ("10.0.0.2", ["1.1.1.1, 203.0.113.5"], "203.0.113.5"),
        ("10.0.0.2", ["1.1.1.1", "203.0.113.5, 192.168.7.9"], "203.0.113.5"),
        ("fd00::1", ["2001:DB8::5"], "2001:db8::5"),
        ("::ffff:10.0.0.2", ["::ffff:203.0.113.5"], "203.0.113.5"),
        ("10.0.0.2", [], "10.0.0.2"),
        ("10.0.0.2", ["203.0.113.5, unknown"], "10.0.0.2"),
        ("10.0.0.2", ["203.0.113.5, nothing, 192.168.7.9"], "192.168.7.9"),
        ("10.0.0.2", ["192.168.7.1"], "192.168.7.1"),
        ("10.0.0.3", ["203.0.113.5"], "10.0.0.3"),
        (None, ["203.0.113.5"], ""),
    ],
)
def test_only_what_configured_proxies_appended_is_believed(peer: str | None, forwarded: list[str], address: str) -> None:
    assert guard.client_address(connection(peer, *forwarded), PROXIES) == address


@pytest.mark.parametrize("peer", ["10.0.0.2", "127.0.0.1", "192.168.7.1"])
def test_without_configured_proxies_a_forged_header_changes_nothing(peer: str) -> None:
    assert guard.client_address(connection(peer, "203.0.113.5"), Settings()) == peer
