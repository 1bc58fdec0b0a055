"""Runs examples/grpo and proves what it claims.

A trainer under torchrun warms a small language model up and improves it by GRPO, while rollout
workers, processes of their own, generate with its latest weights. The trainer hashes its tensors at
each publish point, the workers hash theirs at the start and the end of each lease; this script
compares the two lists. The trainer measures how many held-out problems it solves before and after.

Exit status: 0 where everything held; 1 where something did not, named in the closing table.
"""

import argparse
import pathlib
import signal
import sys
import time

import demo_support
from demo_support import JsonLines, compare_leases, print_table, publish_times, seeds_of

MOST_STALENESS = 1


class Job(demo_support.Job):
    """One training run with its workers."""

    def shared(self, name):
        options = self.options
        return [
            *("--directory", str(self.directory), "--seed", str(self.seed)),
            *("--device", options.device, "--size", options.size),
            *("--proof", str(self.logs / f"{name}.jsonl")),
        ]

    def start_worker(self, index):
        name = f"worker-{index}"
        self.proofs[name] = JsonLines(self.logs / f"{name}.jsonl")
        self.start(
            name,
            [str(self.options.binaries / "grpo_worker"), "--worker", str(index), *self.shared(name)]
            + ["--trainer-ranks", str(self.options.ranks)]
            + ["--batches-per-version", str(self.options.batches_per_worker)],
            WEIGHTCAST_NAME=name,
        )

    def start_trainer(self):
        options = self.options
        batches = max(1, options.workers * options.batches_per_worker // options.ranks)
        self.start_torchrun(
            options.ranks,
            [str(options.binaries / "grpo_trainer"), *self.shared("trainer")]
            + ["--metrics", str(self.logs / "metrics.jsonl"), "--iterations", str(options.iterations)]
            + ["--batches", str(batches), "--goal", str(options.goal), "--kl", str(options.kl)],
        )


def follow(job):
    """Prints a line every few iterations until the trainer ends; returns what was seen."""
    started = time.monotonic()
    metrics = JsonLines(job.logs / "metrics.jsonl")
    print(f"{'iter':>5} {'reward':>7} {'held-out':>8} {'version':>7} {'staleness':>9} {'tokens/s':>8} {'s':>6}")
    while True:
        running = job.processes["trainer"].poll() is None
        for record in metrics.update():
            if "iteration" not in record:
                print(f"      warm-up: {record['warm_up_steps']} steps, held-out {record['held_out']:.3f}", flush=True)
            elif record["iteration"] % job.options.show_every == 0:
                print(
                    f"{record['iteration']:>5} {record['mean_reward']:>7.3f} {record['held_out']:>8.3f}"
                    f" {record['version']:>7} {record['behind']:>9.2f} {record['tokens_per_s']:>8.0f}"
                    f" {record['seconds']:>6.1f}",
                    flush=True,
                )
        if not running:
            break
        if time.monotonic() - started > job.options.time_limit:
            print(f"      the time limit of {job.options.time_limit} s has passed")
            break
        time.sleep(0.1)
    seconds = time.monotonic() - started
    status = job.processes["trainer"].poll()
    job.stop()
    metrics.update()
    for proof in job.proofs.values():
        proof.update()
    return metrics.records, status, seconds


def judge(job, metrics, status, seconds):
    """Compares what workers served with what the trainer had; returns the failures and a row."""
    published = JsonLines(job.logs / "trainer.jsonl")
    published.update()
    leases = compare_leases(job.proofs, published.records)
    times = sorted(publish_times(job.logs / "trainer.log", {}).values())
    iterations = [record for record in metrics if "iteration" in record]
    before = metrics[0]["held_out"] if metrics else 0.0
    after = 0.0
    for line in (job.logs / "trainer.log").read_text(errors="replace").splitlines():
        if " held_out_after=" in line:
            after = float(line.split("held_out_after=")[1].split()[0])
    tokens = sum(record["tokens"] for record in iterations)
    trained = iterations[-1]["seconds"] if iterations else 0.0
    idle = [name for name in job.proofs if not leases.versions_by[name]]
    checks = [
        (status == 0, f"the trainer ended with status {status}"),
        (after >= job.options.goal, f"{after:.3f} of the held-out problems solved, fewer than {job.options.goal}"),
        (after > before, f"the share of held-out problems solved did not rise from {before:.3f}"),
        (len(iterations) == job.options.iterations, f"{len(iterations)} of {job.options.iterations} iterations"),
        (not idle, f"served nothing: {', '.join(idle)}"),
        (leases.unknown == 0, f"{leases.unknown} leases on versions that the trainer never published"),
        (leases.wrong == 0, f"{leases.wrong} leases whose bits were not the trainer's"),
        (leases.changed == 0, f"{leases.changed} leases whose bits changed while they were held"),
        (leases.worst <= MOST_STALENESS, f"staleness at acquire() reached {leases.worst} versions"),
    ]
    failures = [text for held, text in checks if not held]
    row = {
        "seed": job.seed,
        "before": round(before, 3),
        "after": round(after, 3),
        "versions": len(published.records),
        "leases": leases.count,
        "equal": leases.count - leases.wrong - leases.unknown,
        "worst": leases.worst,
        "tokens/s": round(tokens / trained) if trained else "-",
        "publish ms": round(times[len(times) // 2] / 1000, 2) if times else "-",
        "seconds": round(seconds, 1),
        "result": "ok" if not failures else "FAILED",
    }
    return failures, row


def main():
    parser = argparse.ArgumentParser(prog="grpo.sh", description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--build", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--seed", "--seeds", dest="seeds", type=seeds_of, default=[1], metavar="LIST", help="such as 1 or 1-3 (default 1)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default cpu)")
    parser.add_argument("--size", choices=["tiny", "small", "medium"], default="small", help="of the model (default small)")
    parser.add_argument("--iterations", type=int, default=250, metavar="N", help="updates by GRPO (default 250)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="rollout workers (default 2)")
    parser.add_argument("--batches-per-worker", type=int, default=2, metavar="N", help="of each worker in an update (default 2)")
    parser.add_argument("--ranks", type=int, default=1, metavar="N", help="trainer ranks (default 1)")
    parser.add_argument("--goal", type=float, default=0.7, metavar="SHARE", help="of held-out problems to solve (default 0.7)")
    parser.add_argument("--kl", type=float, default=0.0, metavar="WEIGHT", help="of the divergence from the first weights (default 0)")
    parser.add_argument("--show-every", type=int, default=5, metavar="N", help="iterations for a line (default 5)")
    parser.add_argument("--time-limit", type=float, default=600, metavar="S", help="seconds a seed (default 600)")
    demo_support.add_options(parser)
    options = parser.parse_args()
    options.binaries = options.build / "examples" / "grpo"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))

    rows = []
    failed = False
    for seed in options.seeds:
        print(f"seed {seed}: {options.ranks} trainer ranks, {options.workers} rollout workers", flush=True)
        job = Job(options, seed, "grpo")
        try:
            for index in range(options.workers):
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
        "before, after: share of held-out problems solved after the warm-up and at the end. equal: leases whose\n"
        "tensors, hashed by the worker at start and end, equal the trainer's at its publish point. worst: versions\n"
        "that the trainer was ahead when a worker called acquire(). publish ms: median from publish point to applied\n"
        "by all."
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
