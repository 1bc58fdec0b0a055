"""Runs examples/rl_loop and proves what it claims.

Two trainer ranks under torchrun train CartPole by PPO while three rollout workers, processes of
their own, follow their policy. On the way one worker is killed and another one started. The trainer
hashes its tensors at each publish point, the workers hash the tensors that their forward uses at the
start and the end of each lease; this script compares the two lists, and counts how many versions a
worker was behind whenever it asked for one.

Exit status: 0 where everything held; 1 where something did not, named in the closing table.
"""

import argparse
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import demo_support
from demo_support import JsonLines, compare_leases, print_table, publish_times, seeds_of

RANKS = 2
WORKERS = 3
KILL_AT_VERSION = 10
LOOK_AT_VERSION = 40
LEAST_VERSIONS = 60
LEAST_BY_JOINER = 20
GOAL = 475.0
MOST_STALENESS = 1


class Job(demo_support.Job):
    """One training run with its workers."""

    seen = None  # by look(), on the way

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
        self.start_torchrun(
            RANKS,
            [str(self.options.binaries / "trainer"), "--directory", str(self.directory), "--seed", str(self.seed)]
            + ["--metrics", str(self.logs / "metrics.jsonl"), "--proof", str(self.logs / "trainer.jsonl")],
        )

    def status_command(self, *more):
        command = self.options.build / "src" / "cli" / "weightcast"
        whom = ["--directory", self.environment["WEIGHTCAST_DIR"], "--job", self.environment["WEIGHTCAST_JOB"]]
        return [str(command), "status", *whom, "--policy", "cartpole", *more]

    def look(self):
        """The names of the engines that `weightcast status` shows, or what it said instead."""
        ended = subprocess.run(self.status_command("--json", "--timeout", "20"), capture_output=True, text=True)
        return {its["name"] for its in json.loads(ended.stdout)["engines"]} if ended.returncode == 0 else ended.stderr


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
        if job.seen is None and published.records and published.records[-1]["version"] >= LOOK_AT_VERSION:
            job.seen = job.look()
        if not running:
            break
        if time.monotonic() - started > job.options.time_limit:
            print(f"      the time limit of {job.options.time_limit} s has passed")
            break
        time.sleep(0.1)
    seconds = time.monotonic() - started
    status = job.processes["trainer"].poll()
    job.stop()
    published.update()
    metrics.update()
    for proof in job.proofs.values():
        proof.update()
    return metrics.records, published.records, publish_times(job.logs / "trainer.log", times), status, seconds


def judge(job, metrics, published, times, status, seconds):
    """Compares what workers served with what the trainer had; returns the failures and a row."""
    failures = []
    leases = compare_leases(job.proofs, published)
    living = {f"worker-{index}" for index in range(1, WORKERS)}
    joiner = f"worker-{WORKERS}"
    best = metrics[-1]["mean_return"] if metrics else 0.0
    checks = [
        (status == 0, f"the trainer ended with status {status}"),
        (best >= GOAL, f"mean return {best:.1f} is below {GOAL}"),
        (len(published) >= LEAST_VERSIONS, f"{len(published)} versions, fewer than {LEAST_VERSIONS}"),
        (isinstance(job.seen, set) and living <= job.seen, f"weightcast status showed {job.seen}, not {living}"),
        (leases.count > 0, "no worker has served anything"),
        (leases.unknown == 0, f"{leases.unknown} leases on versions that the trainer never published"),
        (leases.wrong == 0, f"{leases.wrong} leases whose bits were not the trainer's"),
        (leases.changed == 0, f"{leases.changed} leases whose bits changed while they were held"),
        (leases.worst <= MOST_STALENESS, f"staleness at acquire() reached {leases.worst} versions"),
        (
            len(leases.versions_by[joiner]) >= LEAST_BY_JOINER,
            f"the worker that joined served {len(leases.versions_by[joiner])} versions, fewer than {LEAST_BY_JOINER}",
        ),
        (seconds <= job.options.time_limit, f"took {seconds:.0f} s, longer than {job.options.time_limit} s"),
    ]
    failures = [text for held, text in checks if not held]
    ordered = sorted(times.values())
    row = {
        "seed": job.seed,
        "return": round(best, 1),
        "versions": len(published),
        "leases": leases.count,
        "equal": leases.count - leases.wrong - leases.unknown,
        "at 0": leases.by_staleness[0],
        "at 1": leases.by_staleness[1],
        "worst": leases.worst,
        "joiner": len(leases.versions_by[joiner]),
        "publish ms": round(ordered[len(ordered) // 2] / 1000, 2) if ordered else "-",
        "seconds": round(seconds, 1),
        "result": "ok" if not failures else "FAILED",
    }
    return failures, row


def main():
    parser = argparse.ArgumentParser(prog="demo.sh", description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--build", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--seeds", type=seeds_of, default=[1], metavar="LIST", help="such as 1 or 1-5 or 2,4 (default 1)")
    parser.add_argument("--time-limit", type=float, default=300, metavar="S", help="seconds a seed (default 300)")
    demo_support.add_options(parser)
    options = parser.parse_args()
    options.binaries = options.build / "examples" / "rl_loop"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))

    rows = []
    failed = False
    for seed in options.seeds:
        print(f"seed {seed}: {RANKS} trainer ranks, {WORKERS} rollout workers", flush=True)
        job = Job(options, seed, "demo")
        try:
            for index in range(WORKERS):
                job.start_worker(index)
            job.start_trainer()
            print(f"  watch it in another terminal: {shlex.join(job.status_command('--watch'))}", flush=True)
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
