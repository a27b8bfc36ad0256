"""What a fresh machine meets: the targets, the locks, the containers."""

import re
import subprocess
from typing import Any

import pytest
import yaml
from parts.installation import ROOT, command

from webmacs import supervisor
from webmacs.supervisor import StartError

TARGETS = ("run", "test", "lint", "format", "bench", "build", "clean")
COMMANDS = ("up", "serve", "migrate", "admin", "source", "status", "settings", "openapi")
SERVICE_KEYS = {
    "build", "command", "depends_on", "environment", "healthcheck", "image", "networks", "ports", "restart", "shm_size",
    "stop_grace_period", "volumes",
}  # fmt: skip


def test_make_alone_lists_what_there_is() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"make {target} " in listed for target in TARGETS)


def test_the_command_line_lists_its_commands_each_with_a_sentence() -> None:
    listed = command("--help").stdout
    assert all(re.search(rf"^    {name} +\w+", listed, re.MULTILINE) for name in COMMANDS)


@pytest.mark.parametrize("lock", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.stem)
def test_a_lock_pins_every_package_by_hash_and_names_no_host(lock: Any) -> None:
    text = lock.read_text("utf-8")
    assert "://" not in text
    entries = re.split(r"\n(?=\S)", text.strip())
    assert all(re.match(r"[a-z0-9.-]+==\S+", entry) and "--hash=sha256:" in entry for entry in entries)


def test_too_little_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": supervisor.DISK_BYTES_MIN - 1})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(StartError, match="has 199 MiB of free disk, WebMACS needs 200: make room"):
        supervisor.check_disk(ROOT)
    usage.free = supervisor.DISK_BYTES_MIN
    supervisor.check_disk(ROOT)


def test_the_composition_is_whole_and_has_no_default_secret() -> None:
    text = (ROOT / "compose.yaml").read_text("utf-8")
    composition = yaml.safe_load(text)
    services = composition["services"]
    assert set(services) == {"db", "backend", "frontend"}
    for service in services.values():
        assert set(service) <= SERVICE_KEYS
        assert service["healthcheck"]["test"]
        assert all(needed in services for needed in service.get("depends_on", {}))
        assert all(network in composition["networks"] for network in service["networks"])
        assert all(volume.partition(":")[0] in composition["volumes"] for volume in service.get("volumes", []))
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert services["db"]["image"] == "postgres:17"
    passwords = re.findall(r"\$\{POSTGRES_PASSWORD[^}]*\}", text)
    assert passwords
    assert set(passwords) == {"${POSTGRES_PASSWORD:?set it in .env}"}


def test_nginx_hands_sockets_over_and_serves_the_rest() -> None:
    text = (ROOT / "deploy" / "nginx.conf").read_text("utf-8")
    assert "location ~ ^/(api|ws|health|metrics)(/|$)" in text
    assert "proxy_set_header Upgrade $http_upgrade;" in text
