"""Runs examples/rl_loop and proves what it claims.

Two trainer ranks under torchrun train CartPole by PPO while three rollout workers, processes of
their own, follow their policy. On the way one worker is killed and another one started. The trainer
hashes its tensors at each publish point, the workers hash the tensors that their forward uses at the
start and the end of each lease; this script compares the two lists, and counts how many versions a
worker was behind whenever it asked for one.

Exit status: 0 where everything held; 1 where something did not, named in the closing table.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

RANKS = 2
WORKERS = 3
KILL_AT_VERSION = 10
LEAST_VERSIONS = 60
LEAST_BY_JOINER = 20
GOAL = 475.0
MOST_STALENESS = 1
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
    """One training run with its workers; ends every process that it started."""

    def __init__(self, options, seed):
        self.options = options
        self.seed = seed
        # Short, because the paths of sockets have little room.
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="wc-demo-"))
        self.logs = options.logs / f"seed-{seed}" if options.logs else self.directory
        self.logs.mkdir(parents=True, exist_ok=True)
        for stale in self.logs.glob("*.jsonl"):
            stale.unlink()
        self.environment = dict(
            os.environ,
            WEIGHTCAST_DIR=str(self.directory / "meet"),
            WEIGHTCAST_JOB=f"demo-{os.getpid()}",
            OMP_NUM_THREADS="1",  # two cores are shared by five processes
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

    def start_worker(self, index):
        name = f"worker-{index}"
        proof = self.logs / f"{name}.jsonl"
        self.proofs[name] = JsonLines(proof)
        self.start(
            name,
            [str(self.options.binaries / "worker"), "--directory", str(self.directory), "--worker", str(index)]
            + ["--seed", str(self.seed), "--trainer-ranks", str(RANKS), "--proof", str(proof)],
            WEIGHTCAST_NAME=name,
        )

    def start_trainer(self):
        self.start(
            "trainer",
            [sys.executable, "-m", "torch.distributed.run", "--no-python", "--standalone"]
            + ["--nproc-per-node", str(RANKS), str(self.options.binaries / "trainer")]
            + ["--directory", str(self.directory), "--seed", str(self.seed)]
            + ["--metrics", str(self.logs / "metrics.jsonl"), "--proof", str(self.logs / "trainer.jsonl")],
            WEIGHTCAST_LOG="debug",
        )

    def end(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def publish_times(log, seen):
    """Microseconds from publish point to the last receiver's APPLIED, by version."""
    try:
        text = log.read_text(errors="replace")
    except FileNotFoundError:
        return seen
    for match in APPLIED.finditer(text):
        seen[int(match[1])] = int(match[4])
    return seen


def follow(job):
    """Prints a line an iteration, kills a worker on the way and starts another; returns what was seen."""
    started = time.monotonic()
    metrics = JsonLines(job.logs / "metrics.jsonl")
    published = JsonLines(job.logs / "trainer.jsonl")
    times = {}
    killed = None
    print(f"{'iter':>5} {'return':>7} {'version':>7}  {'served by each worker':<34} {'staleness':>9} {'publish ms':>10} {'s':>6}")
    while True:
        running = job.processes["trainer"].poll() is None
        published.update()
        serving = {}
        for name, proof in job.proofs.items():
            proof.update()
            if proof.records:
                serving[name] = proof.records[-1]["version"]
        times = publish_times(job.logs / "trainer.log", times)
        for record in metrics.update():
            newest = published.records[-1]["version"] if published.records else record["version"]
            shown = " ".join(
                f"{name[-1]}:{'x' if name == killed else serving.get(name, '-')}" for name in sorted(job.proofs)
            )
            behind = [max(0, newest - v) for name, v in serving.items() if name != killed]
            took = f"{times[max(times)] / 1000:.2f}" if times else "-"
            print(
                f"{record['update']:>5} {record['mean_return']:>7.1f} {newest:>7}  {shown:<34}"
                f" {max(behind, default=0):>9} {took:>10} {record['seconds']:>6.1f}",
                flush=True,
            )
        if killed is None and published.records and published.records[-1]["version"] >= KILL_AT_VERSION:
            killed = "worker-0"
            os.kill(job.processes[killed].pid, signal.SIGKILL)
            job.processes[killed].wait()
            job.start_worker(WORKERS)
            print(f"      {killed} killed with SIGKILL; worker-{WORKERS} started", flush=True)
        if not running:
            break
        if time.monotonic() - started > job.options.time_limit:
            print(f"      the time limit of {job.options.time_limit} s has passed")
            break
        time.sleep(0.1)
    seconds = time.monotonic() - started
    status = job.processes["trainer"].poll()
    for name, process in job.processes.items():
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=10)
    published.update()
    metrics.update()
    for proof in job.proofs.values():
        proof.update()
    return metrics.records, published.records, publish_times(job.logs / "trainer.log", times), status, seconds


def judge(job, metrics, published, times, status, seconds):
    """Compares what workers served with what the trainer had; returns the failures and a row."""
    failures = []
    truth = {(r["run"], r["version"]): r["hash"] for r in published}
    moments = sorted((r["monotonic_ns"], r["version"]) for r in published)
    leases = wrong = changed = unknown = 0
    worst = 0
    by_staleness = collections.Counter()
    versions_by = collections.defaultdict(set)
    for name, proof in job.proofs.items():
        for record in proof.records:
            leases += 1
            versions_by[name].add(record["version"])
            expected = truth.get((record["run"], record["version"]))
            unknown += expected is None
            wrong += expected is not None and record["hash_start"] != expected
            changed += record["hash_end"] != record["hash_start"]
            asked = record["acquire_ns"]
            behind = sum(1 for at, version in moments if at <= asked and version > record["version"])
            by_staleness[behind] += 1
            worst = max(worst, behind)
    joiner = f"worker-{WORKERS}"
    best = metrics[-1]["mean_return"] if metrics else 0.0
    checks = [
        (status == 0, f"the trainer ended with status {status}"),
        (best >= GOAL, f"mean return {best:.1f} is below {GOAL}"),
        (len(published) >= LEAST_VERSIONS, f"{len(published)} versions, fewer than {LEAST_VERSIONS}"),
        (leases > 0, "no worker has served anything"),
        (unknown == 0, f"{unknown} leases on versions that the trainer never published"),
        (wrong == 0, f"{wrong} leases whose bits were not the trainer's"),
        (changed == 0, f"{changed} leases whose bits changed while they were held"),
        (worst <= MOST_STALENESS, f"staleness at acquire() reached {worst} versions"),
        (
            len(versions_by[joiner]) >= LEAST_BY_JOINER,
            f"the worker that joined served {len(versions_by[joiner])} versions, fewer than {LEAST_BY_JOINER}",
        ),
        (seconds <= job.options.time_limit, f"took {seconds:.0f} s, longer than {job.options.time_limit} s"),
    ]
    failures = [text for held, text in checks if not held]
    ordered = sorted(times.values())
    row = {
        "seed": job.seed,
        "return": round(best, 1),
        "versions": len(published),
        "leases": leases,
        "equal": leases - wrong - unknown,
        "at 0": by_staleness[0],
        "at 1": by_staleness[1],
        "worst": worst,
        "joiner": len(versions_by[joiner]),
        "publish ms": round(ordered[len(ordered) // 2] / 1000, 2) if ordered else "-",
        "seconds": round(seconds, 1),
        "result": "ok" if not failures else "FAILED",
    }
    return failures, row


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


def main():
    parser = argparse.ArgumentParser(prog="demo.sh", description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--build", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--seeds", type=seeds_of, default=[1], metavar="LIST", help="such as 1 or 1-5 or 2,4 (default 1)")
    parser.add_argument("--time-limit", type=float, default=300, metavar="S", help="seconds a seed (default 300)")
    parser.add_argument("--mode", choices=["broadcast", "p2p"], help="how versions go to the workers (default broadcast)")
    parser.add_argument("--transport", choices=["auto", "shm", "tcp"], help="how bytes travel (default auto)")
    parser.add_argument(
        "--activation", choices=["auto", "view", "flip", "staged", "serial"], help="how workers take versions in (default auto)"
    )
    parser.add_argument("--logs", type=pathlib.Path, help="keep the logs and the proofs in this folder")
    parser.add_argument("--trace", type=pathlib.Path, metavar="DIR", help="traces of all processes go there (docs/tracing.md)")
    options = parser.parse_args()
    options.binaries = options.build / "examples" / "rl_loop"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))

    rows = []
    failed = False
    for seed in options.seeds:
        print(f"seed {seed}: {RANKS} trainer ranks, {WORKERS} rollout workers", flush=True)
        job = Job(options, seed)
        try:
            for index in range(WORKERS):
                job.start_worker(index)
            job.start_trainer()
            failures, row = judge(job, *follow(job))
            if failures:
                failed = True
                for text in failures:
                    print(f"  FAILED: {text}")
                tail = (job.logs / "trainer.log").read_text(errors="replace").splitlines()[-15:]
                print("  last lines of the trainer's log:", *tail, sep="\n    ")
            rows.append(row)
        finally:
            job.end()
        print()
    print_table(rows)
    print(
        "equal: leases whose tensors, hashed by the worker at start and end, equal the trainer's at its publish\n"
        "point. at 0, at 1, worst: versions that the trainer was ahead when a worker called acquire(). joiner:\n"
        "versions served by the worker that joined late. publish ms: median from publish point to applied by all."
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
