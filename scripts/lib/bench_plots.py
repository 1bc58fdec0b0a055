"""Draws docs/plots/*.svg from bench/results/*.json, with the limit or baseline of the same run in each.

The same results give the same bytes, so that a change of a plot in the history is a change of results.
What is drawn is worked out first, without matplotlib: *_bars() and hook_times().
"""

import argparse
import json
import pathlib
import statistics
import sys

from bench_network_tables import LANES
from bench_support import percentile

OURS, BASELINE, LIMIT = "#1f6fb2", "#b8b8b8", "#c0392b"


# ---- what is drawn -----------------------------------------------------------------------------------


def publish_bars(shm):
    """@return {panel: [(label, median, p10, p90, is a baseline)]} in memcpys of the same bytes"""
    panels = {}
    for row in shm["publish"]:
        ratios = [r["applied_s"] / r["memcpy_s"] for r in row["rounds"]]
        panels.setdefault(f"{row['dtype']}, {row['bytes'] / 1e6:.0f} MB", []).append(
            (f"{row['workers']} × {row['way']}", statistics.median(ratios), percentile(ratios, 10), percentile(ratios, 90), row["way"].startswith("raw"))
        )
    return panels


def hook_times(shm):
    """@return ms, sorted: fence and hook; steps with weightcast; steps of the control loop"""
    raw = shm["loop"]["raw"]
    return (
        sorted(1e3 * (s["fence_s"] + s["hook_s"]) for s in raw["with"]),
        sorted(1e3 * s["step_s"] for s in raw["with"]),
        sorted(1e3 * s["step_s"] for s in raw["without"]),
    )


def tcp_bars(network):
    """@return [(label, GB/s, is a baseline)]"""
    return [(LANES.get(name, name), v["gb_per_s"], not name.startswith("lane")) for name, v in network["tcp"]["variants"].items()]


def gpu_bars(gpu):
    """@return [(label, ms, p10, p90, limit in ms)] and the best of checkpoint-engine in ms, or None"""
    bars = []
    for section in gpu["sections"].values():
        row = section.get("result")
        if isinstance(row, dict) and "limit_s" in row:
            times = [1e3 * r["applied_s"] for r in row["rounds"]]
            where = "through the host" if row["staging"] == "host" else "on the device"
            bars.append((f"{where}: {row['activation']}", statistics.median(times), percentile(times, 10), percentile(times, 90), 1e3 * row["limit_s"]))
    rounds = (gpu["sections"].get("baseline", {}).get("result") or {}).get("rounds", [])
    best = min((1e3 * r["total_s"] for r in rounds if r["way"] == "pinned"), default=None)
    return sorted(bars, reverse=True), best


# ---- drawing -----------------------------------------------------------------------------------------


def load_matplotlib():
    """@return pyplot, set to write the same bytes for the same results"""
    import matplotlib  # not needed to work out what is drawn

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "weightcast", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9})
    import matplotlib.pyplot

    return matplotlib.pyplot


def shown(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def bars(axes, labels, values, colours, low=None, high=None):
    """Lying, from the top; the spread, where there is one, as a whisker; the number at its end."""
    places = range(len(values))
    error = None if low is None else [[v - a for v, a in zip(values, low)], [b - v for v, b in zip(values, high)]]
    axes.barh(places, values, color=colours, xerr=error, error_kw={"lw": 0.8, "capsize": 2})
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    for place, value, end in zip(places, values, high or values):
        axes.text(max(value, end) * 1.04, place, shown(value), va="center", fontsize=8)
    axes.margins(x=0.15)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def draw_publish(plt, shm):
    panels = publish_bars(shm)
    figure, every = plt.subplots(1, len(panels), figsize=(4 * len(panels), 2.8), sharex=True, squeeze=False, layout="constrained")
    for axes, (title, rows) in zip(every[0], panels.items()):
        labels, values, low, high, baseline = zip(*rows)
        bars(axes, labels, values, [BASELINE if b else OURS for b in baseline], low, high)
        axes.set_xscale("log")
        axes.set_xlim(0.3, 100)
        axes.axvline(1, color=LIMIT, lw=1)
        axes.set_title(title)
        axes.set_xlabel("memcpys of the same bytes (median, p10 to p90)")
    return figure


def draw_hook(plt, shm):
    hook, ours, control = hook_times(shm)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
    share = [100 * (i + 1) / len(hook) for i in range(len(hook))]
    left.step(hook, share, color=OURS, where="post")
    left.axvline(1, color=LIMIT, lw=1)
    left.set(xlabel="fence and hook, ms (line: the limit, 1 ms)", ylabel="steps below, %", xlim=(0, max(1.1, 1.05 * hook[-1])))
    for times, colour, label in ((control, BASELINE, "control loop"), (ours, OURS, "publishing every step")):
        right.step(times, [100 * (i + 1) / len(times) for i in range(len(times))], color=colour, label=label, where="post")
    right.set(xlabel="a whole step, ms", ylabel="steps below, %", xlim=(0, None))
    right.legend(frameon=False, loc="upper left")
    return figure


def draw_tcp(plt, network):
    labels, values, baseline = zip(*tcp_bars(network))
    figure, axes = plt.subplots(figsize=(8, 2.6))
    bars(axes, labels, values, [BASELINE if b else OURS for b in baseline])
    axes.axvline(values[0], color=LIMIT, lw=1)
    axes.set_xlabel("GB/s over loopback (line: one plain stream)")
    return figure


def draw_gpu(plt, gpu):
    rows, best = gpu_bars(gpu)
    labels, values, low, high, limits = map(list, zip(*rows))
    if best is not None:
        labels, values, low, high = labels + ["checkpoint-engine (best)"], values + [best], low + [best], high + [best]
    figure, axes = plt.subplots(figsize=(8, 2.8))
    bars(axes, labels, values, [OURS] * len(rows) + [BASELINE] * (len(values) - len(rows)), low, high)
    for place, limit in enumerate(limits):
        axes.plot([limit, limit], [place - 0.4, place + 0.4], color=LIMIT, lw=1.5)
    axes.set_xscale("log")
    axes.set_xlabel("16.4 GB from the end of a step to applied, ms (red: bare copies in the same run)")
    return figure


PLOTS = (("publish", "shm", draw_publish), ("hook", "shm", draw_hook), ("tcp", "network", draw_tcp), ("gpu", "gpu", draw_gpu))


def draw(results, folder):
    """@param results {name: contents} of bench/results/ @return the files written into `folder`"""
    plt = load_matplotlib()
    written = []
    for name, source, drawing in PLOTS:
        if source not in results:
            continue
        figure = drawing(plt, results[source])
        written.append(folder / f"{name}.svg")
        figure.savefig(written[-1], metadata={"Date": None}, bbox_inches="tight")
        plt.close(figure)
    return written


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(prog="bench.sh --plots")
    parser.add_argument("--results", type=pathlib.Path, default=root / "bench" / "results")
    parser.add_argument("--out", type=pathlib.Path, default=root / "docs" / "plots")
    options = parser.parse_args()
    results = {}
    for _, name, _ in PLOTS:
        path = options.results / f"{name}.json"
        if path.exists():
            results[name] = json.loads(path.read_text())
    if not results:
        sys.exit(f"bench: no results in {options.results}: run scripts/bench.sh or scripts/gpu.sh first")
    options.out.mkdir(parents=True, exist_ok=True)
    for path in draw(results, options.out):
        print(f"bench: drew {path}")


if __name__ == "__main__":
    main()
