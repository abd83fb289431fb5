"""SVG elements as escaped markup, and the scales and axes shared by all charts.

Colours and type come from the page's style sheet by class, so that a chart follows dark mode and print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

Scale = Callable[[float], float]

TEXT = 11.0
"""Height of a chart's text in units of its view box, as in the style sheet."""

_CHARACTER = 0.6


def tag(name: str, *children: str | Markup, **attributes: str | float | None) -> Markup:
    """An element; text in it is escaped. `class_` and `fill_opacity` become class and fill-opacity.

    >>> tag("text", "a<b", x=1.26, class_="tick")
    Markup('<text x="1.3" class="tick">a&lt;b</text>')
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _value(value))
        for key, value in attributes.items()
        if value is not None
    )
    inside = Markup("").join(children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, inside)  # noqa: S704 - a literal


def picture(
    title: str, description: str, width: float, height: float, *children: Markup, style: str | None = None
) -> Markup:
    """A whole chart; `title` and `description` are for screen readers."""
    return tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        *children,
        viewBox=f"0 0 {_value(width)} {_value(height)}",
        role="img",
        style=style,
    )


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """
    >>> linear(0, 10, 100, 200)(5)
    150.0
    """
    factor = (end - start) / (high - low) if high > low else 0.0
    return lambda value: start + (value - low) * factor


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between `low` and `high`, about `most` of them.

    >>> ticks(0, 87), ticks(0.3, 0.9, 3)
    ([0.0, 20.0, 40.0, 60.0, 80.0], [0.4, 0.6, 0.8])
    """
    return multiples(low, high, nice((high - low) / most)) if high > low else [low]


def multiples(low: float, high: float, step: float) -> list[float]:
    """The multiples of `step` from `low` to `high`.

    >>> multiples(-0.3, 0.3, 0.2)
    [-0.2, 0.0, 0.2]
    """
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, decimals(step)) + 0.0 for number in range(first, last + 1)]


def decimals(step: float) -> int:
    """How many decimals a multiple of `step` has.

    >>> decimals(0.05), decimals(20)
    (2, 0)
    """
    return max(0, -math.floor(math.log10(step) + 1e-9))


def nice(value: float) -> float:
    """The next larger of 1, 2, 5 times a power of ten.

    >>> nice(0.3), nice(12)
    (0.5, 20.0)
    """
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


def text_width(text: str) -> float:
    """About how wide a text is, in units of the view box."""
    return len(text) * TEXT * _CHARACTER


@dataclass(frozen=True)
class Frame:
    """The box that a chart's data is drawn in, with its two scales."""

    left: float
    top: float
    right: float
    bottom: float
    x: Scale
    y: Scale

    def axes(
        self,
        x_ticks: Sequence[tuple[float, str]],
        y_ticks: Sequence[tuple[float, str]],
        x_title: str = "",
        y_title: str = "",
    ) -> Markup:
        """Grid lines at `y_ticks`, the two axes, their labels, quantities and units."""
        parts = []
        for value, label in y_ticks:
            y = self.y(value)
            parts.append(tag("line", x1=self.left, x2=self.right, y1=y, y2=y, class_="grid"))
            parts.append(tag("text", label, x=self.left - 5, y=y + 3.5, class_="tick end"))
        for value, label in x_ticks:
            x = self.x(value)
            parts.append(tag("line", x1=x, x2=x, y1=self.bottom, y2=self.bottom + 4, class_="axis"))
            parts.append(tag("text", label, x=x, y=self.bottom + 15, class_="tick middle"))
        parts.append(tag("line", x1=self.left, x2=self.right, y1=self.bottom, y2=self.bottom, class_="axis"))
        if x_title:
            middle = (self.left + self.right) / 2
            parts.append(tag("text", x_title, x=middle, y=self.bottom + 30, class_="name middle"))
        if y_title:
            parts.append(tag("text", y_title, x=self.left, y=self.top - 8, class_="name"))
        return Markup("").join(parts)


def _value(value: str | float) -> str:
    """
    >>> _value(3.0), _value(1.2345)
    ('3', '1.2')
    """
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
