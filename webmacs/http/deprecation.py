"""A route that will go: it says so with every answer, long before, in the headers of RFC 9745 and RFC 8594."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from email.utils import format_datetime


@dataclass(frozen=True, slots=True)
class Deprecation:
    """`since` it should not be used by anything new, after `sunset` it may be gone; `successor` is the path to use instead."""

    since: date
    sunset: date
    successor: str | None = None

    def headers(self) -> dict[str, str]:
        headers = {
            "Deprecation": f"@{_midnight(self.since).timestamp():.0f}",
            "Sunset": format_datetime(_midnight(self.sunset), usegmt=True),
        }
        return headers | ({"Link": f'<{self.successor}>; rel="successor-version"'} if self.successor else {})

    def sentence(self) -> str:
        instead = f" Use {self.successor} instead." if self.successor else ""
        return f"Deprecated since {self.since}, and gone after {self.sunset}.{instead}"


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)
