"""A map of validity: the values of a run over two parameters, the border at which a claim ends, and its prediction.

A claim holds at (x, y) where the value of the run is on the right side of ``level``.  At each x the borders are the
places y where the values cross the level, by interpolation between neighbours.  They are held against formulas: the
distance of a map is the largest one between a border that is measured and one that is predicted, either way.

Not here: what is run (the modules beside this one), tables (``tables``), the figure (``drawing``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lorabook.device import DTYPE, default_device


def log_half_normal(count: int = 400) -> Tensor:
    """``ln |x|`` (count,) float64 at evenly spaced quantiles of a Gaussian x, for what a start does in the median."""
    shares = (torch.arange(count, dtype=DTYPE) + 0.5) / count
    return (2**0.5 * torch.erfinv(shares)).log()


@dataclass(frozen=True)
class Axis:
    """A parameter of a map: what it is called, its range, how many values a coarse and a fine grid have."""

    label: str
    low: float
    high: float
    coarse: int
    fine: int
    log: bool = True
    whole: bool = False  # only whole numbers

    def values(self, count: int) -> list[float]:
        """``count`` values, fewer where whole numbers fall together; of four digits, so that every machine has the
        same."""
        shares = [k / (count - 1) for k in range(count)]
        spaced = [
            self.low * (self.high / self.low) ** s if self.log else self.low + s * (self.high - self.low)
            for s in shares
        ]
        return sorted({float(round(v) if self.whole else f"{v:.4g}") for v in spaced})


@dataclass(frozen=True)
class Panel:
    """One value of a third parameter."""

    label: str
    value: float
    kind: str = ""


@dataclass(frozen=True)
class Chart:
    """One map.

    ``run(panel, x (X,), y (Y,), draws)`` gives the values (X, Y), every point from the same seeds, whatever other
    points are asked for; NaN where there is nothing to run.  ``predicted`` and ``false`` give
    borders y at the values of x.
    """

    name: str  # of the map; its own claim is maps.<name>
    source: str  # whose claims these are, and whose colour
    says: str  # the statement whose region is shown
    x: Axis
    y: Axis
    panels: tuple[Panel, ...]
    run: Callable[[Panel, Tensor, Tensor, int], Tensor]
    level: float
    above: bool  # the statement holds where the value is at least the level, else where it is at most that
    spread: float  # distance from the level at which the colour is full; of logarithms where ``ratio``
    ratio: bool
    draws: tuple[int, int]  # of the coarse and of the fine map
    predicted: tuple[Callable[[Panel, float], float], ...] = ()
    false: tuple[Callable[[Panel, float], float], ...] = ()  # the nearest false borders
    anchored: bool = False  # a prediction up to a constant for each panel, which the map itself gives
    unit: tuple[str, Callable[[float], float]] | None = None  # of a distance along y, and its size at an x


@dataclass(frozen=True)
class Region:
    """The values (panels, X, Y) of a chart on a grid."""

    chart: Chart
    x: list[float]
    y: list[float]
    values: Tensor

    def inside(self) -> Tensor:
        """How far each point is on the right side, 1 at ``spread``, 0 at the border, -1 on the other side."""
        chart, v = self.chart, self.values
        gap = (v / chart.level).log() if chart.ratio else v - chart.level
        return ((gap if chart.above else -gap) / chart.spread).clamp(-1, 1)

    def borders(self, panel: int, column: int) -> list[float]:
        """Where along y the values cross the level at one x, each interpolated between its two neighbours."""
        at = torch.tensor(self.y, dtype=DTYPE)
        at, gap = at.log() if self.chart.y.log else at, self._gap(panel, column)
        found = []
        for k in range(len(at) - 1):
            low, high = gap[k].item(), gap[k + 1].item()
            if (low < 0) != (high < 0) and math.isfinite(low + high):
                place = (at[k] + low / (low - high) * (at[k + 1] - at[k])).item()
                found.append(math.exp(place) if self.chart.y.log else place)
        return found

    def _gap(self, panel: int, column: int) -> Tensor:
        v = self.values[panel, column].cpu()
        gap = (v / self.chart.level).log() if self.chart.ratio else v - self.chart.level
        return gap.nan_to_num(nan=math.nan, posinf=self.chart.spread, neginf=-self.chart.spread)  # a run that failed

    def predicted(self, panel: int, false: bool = False) -> list[list[float]]:
        """Each predicted border, a value for each x; with its constant from this map where the chart is anchored."""
        chart = self.chart
        lines = [
            [border(chart.panels[panel], x) for x in self.x] for border in (chart.false if false else chart.predicted)
        ]
        return [self._anchored(panel, line) for line in lines] if chart.anchored else lines

    def _anchored(self, panel: int, line: list[float]) -> list[float]:
        pairs = [(self._unit(borders[0]), self._unit(y)) for y, borders in zip(line, self._all(panel)) if borders]
        if not pairs:
            return line
        shift = torch.tensor([have - said for have, said in pairs], dtype=DTYPE).median().item()
        moved = [self._unit(y) + shift for y in line]
        return [math.exp(y) for y in moved] if self.chart.y.log else moved

    def _all(self, panel: int) -> list[list[float]]:
        return [self.borders(panel, column) for column in range(len(self.x))]

    def _unit(self, y: float) -> float:
        return math.log(y) if self.chart.y.log else y

    def distance(self, false: bool = False) -> float:
        """Largest distance of the measured borders from the predicted ones: a factor where y is logarithmic, else the
        difference, in the chart's unit; infinite where one is predicted a cell or more inside the map and none is
        there."""
        worst, unit = 0.0, self.chart.unit
        places = [self._unit(y) for y in self.y]
        for panel in range(len(self.chart.panels)):
            lines = self.predicted(panel, false)
            for column, found in enumerate(self._all(panel)):
                one = unit[1](self.x[column]) if unit else 1.0
                measured = [self._unit(y) for y in found]
                said = [
                    self._unit(line[column]) for line in lines if line[column] > (0 if self.chart.y.log else -math.inf)
                ]
                known = [p for p, v in zip(places, self.values[panel, column].tolist()) if not math.isnan(v)]
                for y in measured:
                    worst = max([worst, *([min(abs(y - p) for p in said) / one] if said else [math.inf])])
                for p in said:
                    if len(known) > 2 and known[1] <= p <= known[-2]:
                        worst = max(worst, min((abs(y - p) for y in measured), default=math.inf) / one)
        return math.exp(worst) if self.chart.y.log else worst

    def compared(self) -> int:
        """At how many places a border was measured."""
        return sum(len(found) for panel in range(len(self.chart.panels)) for found in self._all(panel))


def region(chart: Chart, fine: bool = False) -> Region:
    """Run a chart on its coarse or its fine grid."""
    x, y = (axis.values(axis.fine if fine else axis.coarse) for axis in (chart.x, chart.y))
    return Region(chart, x, y, run(chart, x, y, chart.draws[fine]))


def run(chart: Chart, x: list[float], y: list[float], draws: int) -> Tensor:
    """The values (panels, X, Y) of a chart."""
    across, up = (torch.tensor(values, dtype=DTYPE, device=default_device()) for values in (x, y))
    return torch.stack([chart.run(panel, across, up, draws) for panel in chart.panels])
