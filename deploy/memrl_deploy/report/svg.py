"""Small pictures as SVG, drawn with nothing but text: a report that needs no library and no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 28, 44
TICKS = 5


@dataclass(frozen=True, kw_only=True)
class Series:
    """Something drawn over x."""

    x: FloatArray
    y: FloatArray
    """NaN breaks a line."""
    label: str = ""
    colour: str = "#1f5fa8"
    low: FloatArray | None = None
    """With `high`: a band."""
    high: FloatArray | None = None
    dots: bool = False


def lines(title: str, x_label: str, y_label: str, series: Sequence[Series]) -> str:
    """Draw lines, with bands and a legend."""
    ys = np.concatenate([part for s in series for part in (s.y, s.low, s.high) if part is not None])
    xs = np.concatenate([s.x for s in series])
    frame = _Frame.around(xs, ys)
    body = []
    for one in series:
        if one.low is not None and one.high is not None:
            known = np.isfinite(one.low) & np.isfinite(one.high)
            there = [*zip(one.x[known], one.high[known], strict=True)]
            back = [*zip(one.x[known], one.low[known], strict=True)][::-1]
            points = " ".join(frame.place(x, y) for x, y in [*there, *back])
            body.append(f'<polygon points="{points}" fill="{one.colour}" opacity="0.18"/>')
        for piece in _pieces(frame, one):
            if one.dots or len(piece) == 1:  # a line of one point cannot be seen
                body += [_dot(place, one.colour) for place in piece]
            else:
                body.append(
                    f'<polyline points="{" ".join(piece)}" fill="none" stroke="{one.colour}" '
                    'stroke-width="1.6"/>'
                )
    return _picture((title, x_label, y_label), frame, body, series)


def _dot(place: str, colour: str) -> str:
    x, y = place.split(",")
    return f'<circle cx="{x}" cy="{y}" r="2.4" fill="{colour}"/>'


def bars(title: str, x_label: str, y_label: str, edges: FloatArray, counts: FloatArray) -> str:
    """Draw a histogram: counts between edges."""
    frame = _Frame.around(edges, np.append(counts, 0.0))
    body = []
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        x0, y0 = (float(v) for v in frame.place(low, count).split(","))
        x1, y1 = (float(v) for v in frame.place(high, 0.0).split(","))
        body.append(
            f'<rect x="{x0:.1f}" y="{y0:.1f}" width="{max(x1 - x0 - 1, 0.5):.1f}" '
            f'height="{max(y1 - y0, 0):.1f}" fill="#1f5fa8"/>'
        )
    return _picture((title, x_label, y_label), frame, body, ())


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """Where values stand in a picture."""

    x0: float
    x1: float
    y0: float
    y1: float

    @classmethod
    def around(cls, xs: FloatArray, ys: FloatArray) -> _Frame:
        x0, x1 = _range(xs, margin=0.0)
        y0, y1 = _range(ys, margin=0.06)
        if np.nanmin(np.append(ys, 0.0)) >= 0.0 and y0 < 0.0:
            y0 = 0.0
        return cls(x0=x0, x1=x1, y0=y0, y1=y1)

    def place(self, x: float, y: float) -> str:
        """Return a point's place as `x,y`."""
        across = LEFT + (x - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)
        down = TOP + (self.y1 - y) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM)
        return f"{across:.1f},{down:.1f}"


def _range(values: FloatArray, margin: float) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    return low - margin * (high - low), high + margin * (high - low)


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two."""
    raw = (high - low) / TICKS
    power = 10.0 ** np.floor(np.log10(raw))
    step = power * min((1.0, 2.0, 5.0, 10.0), key=lambda m: abs(m * power - raw))
    places = np.arange(np.ceil(low / step), np.floor(high / step) + 1)
    return [float(place * step) + 0.0 for place in places]  # + 0.0: a zero has no sign


def _pieces(frame: _Frame, series: Series) -> list[list[str]]:
    """Return the places of the series' points, in pieces between those that are not known."""
    known = np.isfinite(series.y)
    breaks = np.flatnonzero(np.diff(known.astype(np.int8))) + 1
    pieces = (rows for rows in np.split(np.arange(series.x.size), breaks) if rows.size)
    return [
        [frame.place(series.x[i], series.y[i]) for i in rows] for rows in pieces if known[rows[0]]
    ]


def _picture(
    labels: tuple[str, str, str], frame: _Frame, body: Sequence[str], series: Sequence[Series]
) -> str:
    title, x_label, y_label = labels
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" '
        'xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="11">',
        f'<text x="{LEFT}" y="16" font-size="12.5" font-weight="bold">{escape(title)}</text>',
    ]
    bottom = HEIGHT - BOTTOM
    for value in _ticks(frame.x0, frame.x1):
        x = frame.place(value, frame.y0).split(",")[0]
        parts.append(f'<line x1="{x}" x2="{x}" y1="{TOP}" y2="{bottom}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{x}" y="{bottom + 15}" text-anchor="middle">{value:.10g}</text>')
    for value in _ticks(frame.y0, frame.y1):
        y = float(frame.place(frame.x0, value).split(",")[1])
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{value:.10g}</text>')
    parts += body
    parts.append(
        f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{bottom - TOP}" '
        'fill="none" stroke="#888"/>'
    )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(
        f'<text x="14" y="{(TOP + bottom) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 14 {(TOP + bottom) / 2})">{escape(y_label)}</text>'
    )
    names = [one for one in series if one.label]
    if names:  # beside the title: within the frame it would lie on a curve
        spans = "  ".join(
            f'<tspan fill="{one.colour}">■</tspan> <tspan>{escape(one.label)}</tspan>'
            for one in names
        )
        place = f'x="{WIDTH - RIGHT}" y="16" text-anchor="end" font-size="10"'
        parts.append(f"<text {place}>{spans}</text>")
    return "".join([*parts, "</svg>"])
