"""People with dashboards, for locust: they sign in, list the channels, and read charts and newest values over and over.

    WEBMACS_BENCH_EMAIL=... WEBMACS_BENCH_PASSWORD=... locust -f bench/locustfile.py --host http://127.0.0.1:8000

Locust belongs into an environment of its own (requirements/bench.txt): it replaces sockets when it is imported. All users share one
session, because a sign-in costs a quarter of a second of processor on purpose.
"""

import os
import random
from datetime import UTC, datetime, timedelta

import requests
from locust import HttpUser, between, events, task
from locust.env import Environment

CHART_EVENTS = 5
RANGES_S = (120, 600, 3_600)

session: dict[str, str] = {}


@events.test_start.add_listener
def sign_in(environment: Environment, **_: object) -> None:
    credentials = {"email": os.environ["WEBMACS_BENCH_EMAIL"], "password": os.environ["WEBMACS_BENCH_PASSWORD"]}
    answer = requests.post(f"{environment.host}/api/v1/auth/login", json=credentials, timeout=10)
    answer.raise_for_status()
    session["Authorization"] = f"Bearer {answer.json()['access_token']}"


class Watcher(HttpUser):
    """One open dashboard that polls, as it does while its stream is away."""

    wait_time = between(0.5, 1.5)

    def on_start(self) -> None:
        self.client.headers.update(session)
        answer = self.client.get("/api/v1/events", params={"page_size": 200, "sort": "name"}, name="/api/v1/events")
        self.events = [event["public_id"] for event in answer.json()["data"]]

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
