"""Reads traces that `--weightcast.trace FILE` wrote, and says where the time of each version went.

Checks the files, joins them into one (--join), prints how long each track of each process was busy
(the union of its spans: what overlaps counts once), and for each version the stage that was busy
longest, over the time from the publish point to APPLIED: 1 would be a pipeline that hides all other
stages behind its slowest. --svg draws a picture, a row for each track of each process.

Exit status: 0; 1 where a file cannot be used or breaks the format, with what is wrong on stderr.
"""

import argparse
import html
import json
import sys

# Spans that hold others or wait for them; all other tracks are stages that move or check bytes.
NOT_STAGES = ("publish", "hook", "fence", "stage", "switch", "pause", "wait")
# The order of rows, and the colours; tracks that are not listed come behind, in grey.
COLOURS = {
    "publish": "#c7c7c7",
    "hook": "#8c564b",
    "fence": "#e377c2",
    "capture": "#1f77b4",
    "d2h": "#1f77b4",
    "d2d": "#17becf",
    "digest": "#bcbd22",
    "seal": "#9467bd",
    "stage": "#dddddd",
    "wait": "#f7b6d2",
    "wire": "#ff7f0e",
    "nccl": "#ff7f0e",
    "h2d": "#2ca02c",
    "place": "#2ca02c",
    "verify": "#bcbd22",
    "applier": "#98df8a",
    "pause": "#d62728",
    "switch": "#d62728",
}
OTHER_COLOUR = "#7f7f7f"


class BadTrace(Exception):
    """A file that is no trace, and why."""


class Span:
    __slots__ = ("process", "track", "name", "begin", "end", "version", "bytes")

    def __init__(self, process, event):
        args = event.get("args", {})
        self.process = process
        self.track = event.get("cat", event["name"])
        self.name = event["name"]
        self.begin = event["ts"]
        self.end = event["ts"] + event["dur"]
        self.version = args.get("version", 0)
        self.bytes = args.get("bytes", 0)


class Trace:
    """What one file holds."""

    def __init__(self, path, events, is_whole):
        self.path = path
        self.events = events
        self.is_whole = is_whole  # it has its end: the process was not killed
        self.names = {}  # by pid
        self.clock = None
        self.dropped = 0
        for event in events:
            args = event.get("args", {})
            if event.get("ph") == "M" and event.get("name") == "process_name":
                self.names[event["pid"]] = args.get("name", "?")
            elif event.get("ph") == "M" and event.get("name") == "weightcast":
                self.clock = args.get("clock")
            elif event.get("name") == "trace_end":
                self.dropped += args.get("dropped", 0)

    def spans(self):
        return [Span(self.names.get(e["pid"], str(e["pid"])), e) for e in self.events if e["ph"] == "X"]


def events_of(text):
    """The events, and whether the text was whole; a process that is killed leaves its array open."""
    try:
        content = json.loads(text)
        return (content["traceEvents"] if isinstance(content, dict) else content), True
    except KeyError:
        raise BadTrace("an object without traceEvents") from None
    except ValueError:
        pass
    if not text.lstrip().startswith("["):
        raise BadTrace("neither a JSON array of events nor an object with traceEvents")
    # One event a line: the last line may be torn.
    events = []
    for number, line in enumerate(text.splitlines()):
        line = line.strip().lstrip("[").rstrip(",]")
        if not line:
            continue
        try:
            events.append(json.loads(line))
        except ValueError:
            if text.count("\n") > number:
                raise BadTrace(f"line {number + 1} is no event") from None
    return events, False


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check(events):
    """Raises BadTrace where an event lacks what the format asks for."""
    if not isinstance(events, list):
        raise BadTrace("its events are no array")
    for number, event in enumerate(events):
        where = f"event {number + 1}"
        if not isinstance(event, dict) or not isinstance(event.get("name"), str):
            raise BadTrace(f"{where} has no name")
        where += f" ({event['name']})"
        if event.get("ph") not in ("X", "M", "i"):
            raise BadTrace(f"{where} is of kind {event.get('ph')!r}, expected X, M or i")
        if not isinstance(event.get("pid"), int):
            raise BadTrace(f"{where} has no pid")
        if event["ph"] == "M":
            continue
        if not is_number(event.get("ts")):
            raise BadTrace(f"{where} has no time")
        if event["ph"] == "X" and not (is_number(event.get("dur")) and event["dur"] >= 0):
            raise BadTrace(f"{where} has no duration")


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        events, is_whole = events_of(text)
        check(events)
    except OSError as error:
        raise BadTrace(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadTrace(f"{path}: no UTF-8 text") from None
    except BadTrace as error:
        raise BadTrace(f"{path}: {error}") from None
    return Trace(path, events, is_whole)


def join(traces):
    """All events under one roof; where two files have processes of one pid, the later gets another."""
    taken = set()
    joined = []
    for trace in traces:
        renamed = {}
        for pid in sorted({event["pid"] for event in trace.events}):
            free = pid
            while free in taken:
                free += 10_000_000  # beyond every pid of Linux
            renamed[pid] = free
        taken.update(renamed.values())
        joined += [dict(event, pid=renamed[event["pid"]]) for event in trace.events]
    return joined


def union(spans):
    """Disjoint (begin, end) of all that the spans cover, in order."""
    merged = []
    for begin, end in sorted((span.begin, span.end) for span in spans):
        if merged and begin <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([begin, end])
    return merged


def busy(spans):
    return sum(end - begin for begin, end in union(spans))


def by(spans, key):
    groups = {}
    for span in spans:
        groups.setdefault(key(span), []).append(span)
    return groups


def row_order(row):
    process, track = row
    order = list(COLOURS)
    return (not process.startswith("trainer"), process, order.index(track) if track in order else len(order), track)


def track_rows(spans):
    """For each track of each process: how often, how long, how many bytes."""
    rows = []
    groups = by(spans, lambda span: (span.process, span.track))
    for process, track in sorted(groups, key=row_order):
        its = groups[process, track]
        rows.append(
            {
                "process": process,
                "track": track,
                "spans": len(its),
                "busy_us": busy(its),
                "longest_us": max(span.end - span.begin for span in its),
                "bytes": sum(span.bytes for span in its),
            }
        )
    return rows


def version_row(version, spans):
    stages = by([s for s in spans if s.track not in NOT_STAGES], lambda s: (s.process, s.track))
    if not stages:
        return None
    # From the trainer's call to the last engine's APPLIED, as far as the trace tells of them.
    hooks = [s.begin for s in spans if s.track == "hook"]
    applied = [s.end for s in spans if s.track == "publish"] or [s.end for s in spans if s.track == "switch"]
    begin = min(hooks or [s.begin for s in spans])
    end = max(applied or [s.end for s in spans])
    moving = [s for its in stages.values() for s in its]
    first, last = min(s.begin for s in moving), max(s.end for s in moving)
    slowest = max(stages, key=lambda stage: busy(stages[stage]))
    its_busy = busy(stages[slowest])
    return {
        "version": version,
        "process": slowest[0],
        "track": slowest[1],
        "busy_us": its_busy,
        "wall_us": end - begin,
        "of_wall": its_busy / (end - begin) if end > begin else 0.0,
        "moving_us": last - first,
        "of_moving": its_busy / (last - first) if last > first else 0.0,
    }


def version_rows(spans):
    groups = by([span for span in spans if span.version], lambda span: span.version)
    rows = [version_row(version, groups[version]) for version in sorted(groups)]
    return [row for row in rows if row]


def table(head, rows):
    """Columns as wide as they need; those of numbers to the right."""
    columns = list(zip(head, *[[str(cell) for cell in row] for row in rows]))
    for i, column in enumerate(columns):
        is_number_column = all(cell[:1].isdigit() for cell in column[1:])
        width = max(map(len, column))
        columns[i] = [cell.rjust(width) if is_number_column else cell.ljust(width) for cell in column]
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns))


def ms(microseconds):
    return f"{microseconds / 1000:.3f}"


def report(tracks, versions):
    lines = [
        table(
            ["process", "track", "spans", "busy ms", "longest ms", "MB"],
            [
                [r["process"], r["track"], r["spans"], ms(r["busy_us"]), ms(r["longest_us"]), f"{r['bytes'] / 1e6:.1f}"]
                for r in tracks
            ],
        )
    ]
    if versions:
        rows = [
            [
                r["version"],
                f"{r['process']}: {r['track']}",
                ms(r["busy_us"]),
                ms(r["wall_us"]),
                f"{r['of_wall']:.3f}",
                ms(r["moving_us"]),
                f"{r['of_moving']:.3f}",
            ]
            for r in versions
        ]
        head = ["version", "slowest stage", "busy ms", "wall ms", "of wall", "moving ms", "of moving"]
        lines += ["", table(head, rows)]
    return "\n".join(lines)


# ---- the picture ----------------------------------------------------------------------------------

LABEL = 190
WIDTH = 760
ROW = 17
TOP = 34


def tick(length_us):
    """A round step of time that gives about eight ticks."""
    step = 1.0
    for factor in (2, 2.5, 2) * 12:
        if length_us / step <= 9:
            break
        step *= factor
    return step


def bars(spans, scale):
    """The union, where gaps that cannot be seen are closed, so that pictures stay small."""
    out = []
    for begin, end in union(spans):
        left, right = scale(begin), max(scale(end), scale(begin) + 0.6)
        if out and left - out[-1][1] < 0.3:
            out[-1][1] = max(right, out[-1][1])
        else:
            out.append([left, right])
    return out


def draw(spans, title):
    begin, end = min(s.begin for s in spans), max(s.end for s in spans)
    length = max(end - begin, 1.0)

    def scale(at):
        return LABEL + (at - begin) / length * WIDTH

    groups = by(spans, lambda span: (span.process, span.track))
    rows = sorted(groups, key=row_order)
    processes = list(dict.fromkeys(process for process, _ in rows))
    height = TOP + ROW * (len(rows) + len(processes)) + 12
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABEL + WIDTH + 20}" height="{height}" '
        f'font-family="sans-serif" font-size="11">',
        f'<rect width="100%" height="100%" fill="#ffffff"/><text x="6" y="13" font-weight="bold">{html.escape(title)}</text>',
    ]
    step = tick(length)
    unit, name = (1000.0, "ms") if step >= 100 else (1.0, "us")
    count = 0
    while count * step <= length:
        x = scale(begin + count * step)
        svg.append(
            f'<path d="M{x:.1f} {TOP - 6}V{height - 8}" stroke="#e4e4e4"/>'
            f'<text x="{x:.1f}" y="{TOP - 9}" fill="#555555" text-anchor="middle">{count * step / unit:g} {name}</text>'
        )
        count += 1
    y = TOP
    for process in processes:
        svg.append(f'<text x="6" y="{y + 12}" font-weight="bold">{html.escape(process)}</text>')
        y += ROW
        for row in rows:
            if row[0] != process:
                continue
            svg.append(f'<text x="18" y="{y + 12}">{html.escape(row[1])}</text><g fill="{COLOURS.get(row[1], OTHER_COLOUR)}">')
            for left, right in bars(groups[row], scale):
                svg.append(f'<rect x="{left:.1f}" y="{y + 2}" width="{right - left:.1f}" height="{ROW - 4}"/>')
            svg.append("</g>")
            y += ROW
    for version, its in sorted(by([s for s in spans if s.version and s.track == "hook"], lambda s: s.version).items()):
        x = scale(min(s.begin for s in its))
        svg.append(
            f'<path d="M{x:.1f} {TOP - 4}V{height - 8}" stroke="#000000" stroke-dasharray="2 3"/>'
            f'<text x="{x + 3:.1f}" y="{TOP + 12}">version {version}</text>'
        )
    svg.append("</svg>")
    return "\n".join(svg) + "\n"


# ---- the command ----------------------------------------------------------------------------------


def chosen(spans, first, last):
    """The spans of these versions, and of no version what falls into their time."""
    its = [span for span in spans if first <= span.version <= last]
    if not its:
        return []
    begin, end = min(s.begin for s in its), max(s.end for s in its)
    return its + [s for s in spans if not s.version and s.begin >= begin and s.end <= end]


def versions_argument(text):
    first, _, last = text.partition("-")
    try:
        return int(first), int(last or first)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected 7 or 5-9, got {text!r}") from None


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILE", help="a trace, one a process")
    parser.add_argument("--versions", type=versions_argument, metavar="N[-M]", help="only these")
    parser.add_argument("--join", metavar="OUT", help="write one file of all, for a viewer")
    parser.add_argument("--svg", metavar="OUT", help="draw a picture")
    parser.add_argument("--title", default="", help="of the picture")
    parser.add_argument("--json", metavar="OUT", help="write the tables as JSON")
    options = parser.parse_args(arguments)
    try:
        traces = [read(path) for path in options.files]
        clocks = {trace.clock for trace in traces if trace.clock}
        if len(clocks) > 1:
            raise BadTrace(
                "these files are of hosts with different clocks, their times cannot be compared: "
                + ", ".join(f"{trace.path} ({trace.clock})" for trace in traces)
            )
        spans = [span for trace in traces for span in trace.spans()]
        if options.versions:
            spans = chosen(spans, *options.versions)
        if not spans:
            raise BadTrace("no spans" + (" of these versions" if options.versions else ""))
    except BadTrace as error:
        print(f"trace_report: {error}", file=sys.stderr)
        return 1
    for trace in traces:
        if not trace.is_whole:
            print(f"note: {trace.path} lacks its end: its process was killed, or still writes", file=sys.stderr)
        if trace.dropped:
            print(f"note: {trace.path} lacks {trace.dropped} spans that were dropped", file=sys.stderr)
    tracks, versions = track_rows(spans), version_rows(spans)
    print(report(tracks, versions))
    if options.join:
        with open(options.join, "w", encoding="utf-8") as file:
            file.write("[\n" + ",\n".join(json.dumps(event, separators=(",", ":")) for event in join(traces)) + "\n]\n")
    if options.svg:
        with open(options.svg, "w", encoding="utf-8") as file:
            file.write(draw(spans, options.title or "weightcast trace"))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"tracks": tracks, "versions": versions}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
