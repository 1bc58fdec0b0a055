"""What the sections of scripts/bench.sh have in common."""

import datetime
import os
import pathlib
import platform
import re
import time


def percentile(values, p):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(p / 100 * len(ordered)))]


def mem_available():
    return 1024 * int(re.search(r"MemAvailable:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1])


def settled_available(still=15, longest=300):
    """MemAvailable once it has stopped moving.

    What is given back need not be free at once: a virtual machine's kernel that reports free pages to its host
    (page_reporting) counts them as free only afterwards, a GB of them minutes later on some machines.

    @param still  seconds in which it moves by less than 4 MB
    @return (bytes, whether it stood still before `longest` seconds were over)"""
    until = time.monotonic() + longest
    seen = [mem_available()]
    while time.monotonic() < until:
        time.sleep(1)
        seen.append(mem_available())
        last = seen[-still:]
        if len(last) == still and max(last) - min(last) < 4e6:
            return last[-1], True
    return seen[-1], False


def cpu_seconds(pid):
    """Of a process that runs, all its threads."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Others:
    """How much of the processors went to processes other than ours (and, on a virtual machine, to others of
    its host): where that is much, or differs between what is compared, the times are not worth much."""

    def __init__(self, *pids):
        self.mine = {pid: cpu_seconds(pid) for pid in (os.getpid(), *pids)}
        self.all = self.machine_seconds()
        self.begun = time.monotonic()

    @staticmethod
    def machine_seconds():
        user, nice, system, _, _, _, _, steal = pathlib.Path("/proc/stat").read_text().split()[1:9]
        return sum(map(int, (user, nice, system, steal))) / os.sysconf("SC_CLK_TCK")

    def cores(self, *started):
        """Since this object was made, as a number of cores. `started` are further processes of ours since
        then; all of ours must still run."""
        mine = sum(cpu_seconds(pid) - before for pid, before in self.mine.items())
        mine += sum(cpu_seconds(pid) for pid in started)
        return max(0.0, self.machine_seconds() - self.all - mine) / (time.monotonic() - self.begun)


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
