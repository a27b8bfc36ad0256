"""What a monitoring system wants to watch, in the text format of Prometheus: counted where it happens, gathered here when asked for."""

import os
from collections.abc import Iterator
from typing import Annotated, Final

import psutil
from msgspec import Meta
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0, generate_latest
from starlette.responses import Response

from webmacs import clock
from webmacs.fanout.hub import Hub
from webmacs.http.openapi import VERSION
from webmacs.http.route import Call, Parts, route
from webmacs.http.socket import OpenSockets
from webmacs.telemetry.intake import Intake

STARTED: Final = clock.now_us() / 1e6


SAMPLE: Final = """# HELP webmacs_sockets Open sockets.
# TYPE webmacs_sockets gauge
webmacs_sockets 3.0
"""


@route("GET", "/metrics", produces=CONTENT_TYPE_PLAIN_1_0_0, answers=Annotated[str, Meta(examples=[SAMPLE])])
async def get_metrics(call: Call) -> Response:
    """Read the metrics of this process, for Prometheus. Give its scraper an API token as bearer."""
    state = call.request.app.state
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Gathered(list(_gather(call.parts, state.intake, state.hub, state.sockets))))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_1_0_0)


class _Gathered:
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def _gather(parts: Parts, intake: Intake, hub: Hub, sockets: OpenSockets) -> Iterator[Metric]:
    vitals = parts.vitals
    build = GaugeMetricFamily("webmacs_build", "1, with the version.", labels=["version"])
    build.add_metric([VERSION], 1)
    yield build
    yield GaugeMetricFamily("webmacs_start_time_seconds", "When this process started, since 1970.", STARTED)
    yield GaugeMetricFamily("webmacs_storing", "1 while readings can be stored.", float(vitals.storing))
    yield CounterMetricFamily("webmacs_readings_stored", "Readings committed.", vitals.readings)
    yield CounterMetricFamily("webmacs_runs_written", "Rows that the readings were written as.", vitals.runs)
    refused = CounterMetricFamily("webmacs_frames_refused", "Frames refused, by the code of the refusal.", labels=["code"])
    for code, count in sorted(vitals.refused_by.items()):
        refused.add_metric([code], count)
    yield refused
    yield GaugeMetricFamily("webmacs_lag_seconds", "From the newest reading's own time to its commit.", vitals.lag_ms / 1e3)
    yield SummaryMetricFamily("webmacs_flush_seconds", "Flushes, and what they took.", vitals.flushes, vitals.flush_s)

    live = GaugeMetricFamily("webmacs_source_live", "1: this source is connected here.", labels=["source"])
    lag = GaugeMetricFamily("webmacs_source_lag_seconds", "From its newest frame's sealing to its commit.", labels=["source"])
    offset = GaugeMetricFamily("webmacs_source_clock_offset_seconds", "The source's clock less the server's.", labels=["source"])
    for one in intake.live.values():
        sender = one.sender
        live.add_metric([sender.name], 1)
        if sender.lag_ms is not None:
            lag.add_metric([sender.name], sender.lag_ms / 1e3)
        if sender.clock_offset_us is not None:
            offset.add_metric([sender.name], sender.clock_offset_us / 1e6)
    yield from (live, lag, offset)

    yield GaugeMetricFamily("webmacs_sockets", "Open sockets.", len(sockets))
    yield GaugeMetricFamily("webmacs_dashboards", "Sockets that watch.", len(hub))
    connections = GaugeMetricFamily("webmacs_database_connections", "Connections of the pool.", labels=["state"])
    idle = parts.pool.get_idle_size()
    connections.add_metric(["idle"], idle)
    connections.add_metric(["used"], parts.pool.get_size() - idle)
    yield connections

    process = psutil.Process()
    times = process.cpu_times()
    yield CounterMetricFamily("process_cpu_seconds", "User and system time.", times.user + times.system)
    yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory.", process.memory_info().rss)
    yield GaugeMetricFamily("process_open_fds", "Open descriptors.", len(os.listdir("/proc/self/fd")))


routes = [get_metrics]
