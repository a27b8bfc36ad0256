"""What can stand on a dashboard: the types of widgets, how each is configured, and how many events it shows."""

from typing import Annotated, ClassVar, Literal, TypeAlias

from msgspec import Meta

from webmacs.http.shape import Shape

Range = Annotated[int, Meta(ge=1, le=10 * 366 * 86_400, description="How far back it shows, in s; null: as the dashboard.")] | None
Scale = Annotated[float | None, Meta(description="An end of the scale; null: the event's own, or what the readings need.")]
Label = Annotated[str, Meta(max_length=50)]
Decimals = Annotated[int, Meta(ge=0, le=12, description="null: the event's.")] | None


class _Widget(Shape, frozen=True, tag_field="widget_type"):
    events_max: ClassVar[int] = 1
    """A widget may also wait for its events."""


class LineChartWidget(_Widget, frozen=True, tag="line_chart"):
    events_max: ClassVar[int] = 20  # more curves are not told apart
    range_seconds: Range = None
    y_min: Scale = None
    y_max: Scale = None
    legend: bool = True
    annotations: bool = True


class GaugeWidget(_Widget, frozen=True, tag="gauge"):
    min: Scale = None
    max: Scale = None
    decimals: Decimals = None


class BarWidget(_Widget, frozen=True, tag="bar"):
    """Several values of one unit beside each other."""

    events_max: ClassVar[int] = 20
    min: Scale = None
    max: Scale = None
    decimals: Decimals = None


class StatCardWidget(_Widget, frozen=True, tag="stat_card"):
    decimals: Decimals = None
    sparkline: bool = True
    range_seconds: Range = None


class ActuatorToggleWidget(_Widget, frozen=True, tag="actuator_toggle"):
    on_value: float = 1.0
    off_value: float = 0.0
    on_label: Label = ""
    off_label: Label = ""
    confirm: Annotated[bool, Meta(description="Ask before it is set.")] = True


class SliderWidget(_Widget, frozen=True, tag="slider"):
    min: Scale = None
    max: Scale = None
    step: Annotated[float, Meta(gt=0)] | None = None
    confirm: Annotated[bool, Meta(description="Ask before it is set.")] = True


class TableWidget(_Widget, frozen=True, tag="table"):
    events_max: ClassVar[int] = 100
    decimals: Decimals = None
    sparkline: bool = False


class StateName(Shape, frozen=True):
    value: float
    label: Annotated[str, Meta(min_length=1, max_length=50)]


class StateTimelineWidget(_Widget, frozen=True, tag="state_timeline"):
    events_max: ClassVar[int] = 20
    range_seconds: Range = None
    states: Annotated[list[StateName], Meta(max_length=50, description="Words for values.")] = []  # noqa: RUF012 - copied for each


class HistogramWidget(_Widget, frozen=True, tag="histogram"):
    events_max: ClassVar[int] = 8
    range_seconds: Range = None
    bins: Annotated[int, Meta(ge=2, le=500)] = 50


class XyChartWidget(_Widget, frozen=True, tag="xy_chart"):
    """The first event is x."""

    events_max: ClassVar[int] = 8
    range_seconds: Range = None
    lines: Annotated[bool, Meta(description="Join points that follow each other.")] = False


class SpectrumWidget(_Widget, frozen=True, tag="spectrum"):
    events_max: ClassVar[int] = 8
    size: Annotated[Literal[256, 512, 1024, 2048, 4096, 8192, 16384], Meta(description="Readings of one transform.")] = 1024
    window: Literal["hann", "hamming", "blackman", "rectangle"] = "hann"
    decibels: bool = True


class PictureBinding(Shape, frozen=True):
    element: Annotated[str, Meta(min_length=1, max_length=200, description="Id of an element of the picture.")]
    event: Annotated[int, Meta(ge=0, le=99, description="Which of the widget's events, from 0.")]
    shows: Literal["text", "level", "running", "visible"] = "text"


class ProcessPictureWidget(_Widget, frozen=True, tag="process_picture"):
    events_max: ClassVar[int] = 100
    svg: Annotated[str, Meta(max_length=100_000, description="Kept as it is; whoever draws it runs no script of it.")] = ""
    bindings: Annotated[list[PictureBinding], Meta(max_length=200)] = []  # noqa: RUF012 - copied for each


class AlarmListWidget(_Widget, frozen=True, tag="alarm_list"):
    """Of its events, or of all."""

    events_max: ClassVar[int] = 100
    severity_min: Literal["low", "medium", "high", "critical"] = "low"
    rows: Annotated[int, Meta(ge=1, le=100)] = 10


class LogWidget(_Widget, frozen=True, tag="log"):
    events_max: ClassVar[int] = 0
    logging_type: Literal["info", "warning", "error"] | None = None
    rows: Annotated[int, Meta(ge=1, le=100)] = 10


class TextWidget(_Widget, frozen=True, tag="text"):
    events_max: ClassVar[int] = 0
    markdown: Annotated[str, Meta(max_length=20_000)] = ""


class ExperimentWidget(_Widget, frozen=True, tag="experiment"):
    """The running experiment, with buttons to start and to stop one for those who may."""

    events_max: ClassVar[int] = 0


Config: TypeAlias = (
    LineChartWidget | GaugeWidget | StatCardWidget | ActuatorToggleWidget | SliderWidget | BarWidget | TableWidget | StateTimelineWidget
    | HistogramWidget | XyChartWidget | SpectrumWidget | ProcessPictureWidget | AlarmListWidget | LogWidget | TextWidget | ExperimentWidget
)  # fmt: skip
