"""Maps of validity: over which two parameters a claim holds, measured, and where its border was predicted.

- ``chart``: one map: axes, values on a grid, borders, their distance from the predicted ones;
- ``rushka_runs``, ``mallada_runs``, ``network_runs``, ``lora_one_runs``, ``kim_runs``, ``selection_runs``: what is run,
  by source;
- ``tables``: the fine maps that are kept in ``data/maps``; ``drawing``: the figure of a map.

Every point of a map is computed from the same seeds, whatever other points are asked for.
"""

from lorabook.maps import kim_runs, lora_one_runs, mallada_runs, network_runs, rushka_runs, selection_runs
from lorabook.maps.chart import Chart, Region, region, run

#: All maps by name, in the order of the chapter.
ATLAS: dict[str, Chart] = {
    chart.name: chart
    for room in (mallada_runs, network_runs, lora_one_runs, rushka_runs, kim_runs, selection_runs)
    for chart in room.CHARTS
}
