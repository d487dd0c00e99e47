"""Benchmark part `night`: a billion images on clusters of GPUs, in simulation; and the page that says so.

The rates of GPUs are not measured: the arithmetic rate of a data sheet at `SHARE` of its peak. The other costs are
measured (`Costs`). A quarter of the night is simulated, since the rest is more of the same.
"""

from __future__ import annotations

from pipeline.bench.measure import Part, Setting
from pipeline.bench.night.simulate import Costs, Night, Result, Shape, simulate

GFLOP = 24.5  # of an image, at 299 px
SHARE = 0.35  # of a GPU's peak that its network reaches
DECODED_BY_VCPU = 400.0  # images a second: half of a core's 650 to 870
IMAGES, PART = 10**9, 4


def _rate(peak_tflops: float) -> float:
    return SHARE * peak_tflops * 1000 / GFLOP


# Two vCPUs are left for the rest of the job.
L4 = Shape("g6.2xlarge: 1 L4, 8 vCPU", 1, 6 * DECODED_BY_VCPU, _rate(121), 0.625e9, 0.98)
H100 = Shape("p5.4xlarge: 1 H100, 16 vCPU", 1, 14 * DECODED_BY_VCPU, _rate(790), 1.25e9, 6.88)
SPOT = Costs(loss_hours=20.0)
CLUSTERS = (("4 GPUs", (H100,) * 4), ("8 GPUs", (H100,) * 8), ("25 GPUs", (L4,) * 25), ("100 GPUs", (L4,) * 100))


def measure(setting: Setting) -> Part:
    """Ratios `night_…_hours` of a billion images; the tables are printed."""
    rows = simulate_all()
    print(format_table(rows))
    hours = {f"night_{name.replace(' ', '_')}_hours": result.seconds / 3600 for name, _, result in rows}
    return Part(hours, {"night": [(name, shape.name, vars(result)) for name, shape, result in rows]})


def simulate_all(images: int = IMAGES) -> list[tuple[str, Shape, Result]]:
    """The night on each cluster, on demand; then the same by spot."""
    rows = []
    for costs, ending in ((Costs(), ""), (SPOT, ", spot")):
        for name, nodes in CLUSTERS:
            part = simulate(Night(images // PART), list(nodes), costs)
            rows.append((name + ending, nodes[0], _extend(part, images, costs)))
    return rows


def _extend(part: Result, images: int, costs: Costs) -> Result:
    """The whole night, from a part of it."""
    seconds = costs.plan_s + costs.start_s + images / part.images_per_s
    hourly = part.cost / part.seconds
    return Result(seconds, part.images_per_s, part.busy, part.num_lost * PART, hourly * seconds)


def format_table(rows: list[tuple[str, Shape, Result]]) -> str:
    """The rows as a table of Markdown."""
    lines = ["| cluster | node | hours for 10^9 | images/s | what limits | driver busy | losses | cost on demand |",
             "|---|---|---|---|---|---|---|---|"]
    for name, shape, result in rows:
        cost = f"${result.cost:,.0f}" if not result.num_lost else ""
        lines.append(f"| {name} | {shape.name} | {result.seconds / 3600:.1f} | {result.images_per_s:,.0f} | "
                     f"{result.limit} ({result.busy[result.limit]:.2f}) | {result.busy['driver']:.2f} | "
                     f"{result.num_lost:,} | {cost} |")
    return "\n".join(lines)
