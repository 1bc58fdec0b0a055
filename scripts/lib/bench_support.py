"""What the sections of scripts/bench.sh have in common."""

import datetime
import os
import pathlib
import platform
import re


def percentile(values, p):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(p / 100 * len(ordered)))]


def mem_available():
    return 1024 * int(re.search(r"MemAvailable:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1])


def machine():
    model = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "command": "scripts/bench.sh",
    }


def heading(where):
    return f"{where['date']}, {where['cpu']}, {where['cores']} cores, `{where['command']}`."


def replace_block(page, name, text):
    """Puts `text` between the page's markers of that name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, marked, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not marked or not closed:
        raise SystemExit(f"bench: {page} lacks the lines {begin} and {end}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")
