"""People with dashboards and machines that send, for locust, against any installation:

    WEBMACS_BENCH_EMAIL=... WEBMACS_BENCH_PASSWORD=... locust -f bench/locustfile.py --host http://127.0.0.1:8000
    ... locust -f bench/locustfile.py --host http://127.0.0.1:8000 --headless --users 20 --run-time 60s Watcher

Watchers list channels, look at one, and read charts and newest values over and over; a sender posts batches of readings of an event that
the test makes, so the account must be an operator's. All share one session, because a sign-in costs a quarter of a second of processor on
purpose: with more than some fifty users raise the settings requests_per_minute and address_requests_per_minute. What was measured goes to
bench/results, too.

Locust belongs into an environment of its own (requirements/bench.txt): it replaces sockets when it is imported.
"""

import os
import random
from datetime import UTC, datetime, timedelta

import requests
from figures import Figures
from locust import HttpUser, between, constant_pacing, events, task
from locust.env import Environment

CHART_EVENTS = 5
RANGES_S = (120, 600, 3_600)
BATCH_READINGS = 1_000

session: dict[str, str] = {}


@events.test_start.add_listener
def sign_in(environment: Environment, **_: object) -> None:
    credentials = {"email": os.environ["WEBMACS_BENCH_EMAIL"], "password": os.environ["WEBMACS_BENCH_PASSWORD"]}
    answer = requests.post(f"{environment.host}/api/v1/auth/login", json=credentials, timeout=10)
    answer.raise_for_status()
    session["Authorization"] = f"Bearer {answer.json()['access_token']}"


@events.test_stop.add_listener
def write_figures(environment: Environment, **_: object) -> None:
    figures = Figures("users")
    for entry in environment.stats.entries.values():
        name = f"users.{entry.method.lower()} {entry.name}"
        figures.add(name, entry.total_rps, "requests/s")
        figures.add(f"{name}.p99", entry.get_response_time_percentile(0.99), "ms")
        figures.add(f"{name}.failed", entry.num_failures, "requests")
    figures.say(f"written to {figures.save()}")


class Watcher(HttpUser):
    """One open dashboard that polls, as it does while its stream is away."""

    weight = 9
    wait_time = between(0.5, 1.5)

    def on_start(self) -> None:
        self.client.headers.update(session)
        self.list_events()

    @task(2)
    def list_events(self) -> None:
        answer = self.client.get("/api/v1/events", params={"page_size": 200, "sort": "name"}, name="/api/v1/events")
        self.events = [event["public_id"] for event in answer.json()["data"]]

    @task(2)
    def look_at_one(self) -> None:
        if self.events:
            self.client.get(f"/api/v1/events/{random.choice(self.events)}", name="/api/v1/events/{public_id}")

    @task(5)
    def newest(self) -> None:
        self.client.get("/api/v1/datapoints/latest")

    @task(2)
    def chart(self) -> None:
        if not self.events:
            return
        end = datetime.now(UTC)
        self.client.post(
            "/api/v1/datapoints/series",
            json={
                "event_public_ids": random.sample(self.events, min(CHART_EVENTS, len(self.events))),
                "from": (end - timedelta(seconds=random.choice(RANGES_S))).isoformat(),
                "to": end.isoformat(),
                "max_points": 500,
            },
        )

    @task(1)
    def health(self) -> None:
        self.client.get("/health")


class Sender(HttpUser):
    """A machine that sends by REST: a batch a second, of a reading each millisecond."""

    weight = 1
    wait_time = constant_pacing(1)

    def on_start(self) -> None:
        self.client.headers.update(session)
        made = self.client.post("/api/v1/events", json={"name": f"Load {random.getrandbits(64):016x}", "type": "sensor", "unit": ""})
        self.event = made.json()["public_id"]

    @task
    def send(self) -> None:
        end = datetime.now(UTC)
        readings = [
            {"event_public_id": self.event, "timestamp": (end - timedelta(milliseconds=age)).isoformat(), "value": random.gauss(20, 1)}
            for age in reversed(range(BATCH_READINGS))
        ]
        self.client.post("/api/v1/datapoints/batch", json={"datapoints": readings})
