"""What the scripts that run an example share: its processes, its proofs, and how they are compared."""

import collections
import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

APPLIED = re.compile(r"event=version_applied version=(\d+) receivers=(\d+) lost=(\d+) publish_to_applied_us=(-?\d+)")


class JsonLines:
    """Follows a file of JSON lines; a last line without its end is left for the next look."""

    def __init__(self, path):
        self.path = path
        self.records = []
        self._offset = 0

    def update(self):
        try:
            with open(self.path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        new = [json.loads(line) for line in whole.splitlines() if line]
        self.records += new
        return new


class Job:
    """The processes of one training run; ends every one that it started."""

    def __init__(self, options, seed, name):
        self.options = options
        self.seed = seed
        # Short, because the paths of sockets have little room.
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix=f"wc-{name}-"))
        self.logs = options.logs / f"seed-{seed}" if options.logs else self.directory
        self.logs.mkdir(parents=True, exist_ok=True)
        for stale in self.logs.glob("*.jsonl"):
            stale.unlink()
        self.environment = dict(
            os.environ,
            WEIGHTCAST_DIR=str(self.directory / "meet"),
            WEIGHTCAST_JOB=f"{name}-{os.getpid()}",
            OMP_NUM_THREADS="1",  # two cores are shared by all processes
        )
        self.environment.pop("WEIGHTCAST_POLICY", None)
        # What a user would write into the environment of torchrun and of the workers.
        for key in ("mode", "transport", "activation"):
            if value := getattr(options, key):
                self.environment[f"WEIGHTCAST_{key.upper()}"] = value
        if options.trace:
            traces = options.trace.resolve() / f"seed-{seed}"
            traces.mkdir(parents=True, exist_ok=True)
            self.environment["WEIGHTCAST_TRACE"] = str(traces / "%n-%p.json")
        self.processes = {}
        self.proofs = {}

    def start(self, name, command, **more_environment):
        log = open(self.logs / f"{name}.log", "wb")
        self.processes[name] = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=dict(self.environment, **more_environment)
        )
        log.close()

    def start_torchrun(self, ranks, command):
        self.start(
            "trainer",
            [sys.executable, "-m", "torch.distributed.run", "--no-python", "--standalone"]
            + ["--nproc-per-node", str(ranks)]
            + command,
            WEIGHTCAST_LOG="debug",
        )

    def stop(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def end(self):
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


@dataclasses.dataclass
class Leases:
    """What the workers' leases came to, beside what the trainer published."""

    count: int = 0
    wrong: int = 0  # bits that were not the trainer's
    changed: int = 0  # bits that changed while the lease was held
    unknown: int = 0  # of versions that the trainer never published
    worst: int = 0  # versions that the trainer was ahead at acquire()
    by_staleness: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    versions_by: dict = dataclasses.field(default_factory=lambda: collections.defaultdict(set))


def compare_leases(proofs, published):
    truth = {(r["run"], r["version"]): r["hash"] for r in published}
    moments = sorted((r["monotonic_ns"], r["version"]) for r in published)
    leases = Leases()
    for name, proof in proofs.items():
        for record in proof.records:
            leases.count += 1
            leases.versions_by[name].add(record["version"])
            expected = truth.get((record["run"], record["version"]))
            leases.unknown += expected is None
            leases.wrong += expected is not None and record["hash_start"] != expected
            leases.changed += record["hash_end"] != record["hash_start"]
            asked = record["acquire_ns"]
            behind = sum(1 for at, version in moments if at <= asked and version > record["version"])
            leases.by_staleness[behind] += 1
            leases.worst = max(leases.worst, behind)
    return leases


def publish_times(log, seen):
    """Microseconds from publish point to the last receiver's APPLIED, by version."""
    try:
        text = log.read_text(errors="replace")
    except FileNotFoundError:
        return seen
    for match in APPLIED.finditer(text):
        seen[int(match[1])] = int(match[4])
    return seen


def print_table(rows):
    widths = {key: max(len(key), *(len(str(row[key])) for row in rows)) for key in rows[0]}
    print("  ".join(key.rjust(width) for key, width in widths.items()))
    for row in rows:
        print("  ".join(str(row[key]).rjust(width) for key, width in widths.items()))


def seeds_of(text):
    seeds = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        seeds += range(int(first), int(last) + 1) if dash else [int(first)]
    return seeds


def add_options(parser):
    parser.add_argument("--mode", choices=["broadcast", "p2p"], help="how versions go to the workers (default broadcast)")
    parser.add_argument("--transport", choices=["auto", "shm", "tcp"], help="how bytes travel (default auto)")
    parser.add_argument(
        "--activation", choices=["auto", "view", "flip", "staged", "serial"], help="how workers take versions in (default auto)"
    )
    parser.add_argument("--logs", type=pathlib.Path, help="keep the logs and the proofs in this folder")
    parser.add_argument("--trace", type=pathlib.Path, metavar="DIR", help="traces of all processes go there (docs/tracing.md)")
