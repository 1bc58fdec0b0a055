"""What scripts/bench.sh measures over the network, without torch: storm, tight and tcp.

Drives bench/core_trainer, bench/core_engine and bench/tcp_bench, all on one host over loopback.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time

from bench_job import Job
from bench_support import Others, mem_available

SECTIONS = ("storm", "tight", "tcp")
JOINERS = 16


class Network:
    def __init__(self, options):
        self.binaries = options.build / "bench"
        self.quick = options.quick

    # ---- storm ----------------------------------------------------------------------------------

    def storm(self):
        """16 joiners at once while the trainer steps. They stand for other hosts: a core for all of them,
        at the lowest priority, so that what is measured is what the trainer pays. This process does
        little, and does it there too."""
        all_cores = os.sched_getaffinity(0)
        others = {max(all_cores)}
        rounds = 2 if self.quick else 12
        quiet_seconds = 1.0 if self.quick else 4.0
        args = ["--task", "step", "--mode", "p2p", "--transport", "tcp", "--bytes", 64_000_000, "--step-ms", 25]
        with Job(self.binaries) as job:
            trainer = job.start("core_trainer", args)
            bytes_of_policy = trainer.wait_for("started")["bytes"]
            trainer.wait_for("stepping")
            self.publish(trainer)
            os.sched_setaffinity(0, others)
            try:
                seen = []
                for number in range(rounds):
                    control = self.window(quiet_seconds, trainer)
                    load = job.start("core_trainer", ["--task", "load", "--bytes", 1_000_000], before=["nice", "-n", "19"])
                    load.wait_for("started")
                    loaded = self.window(quiet_seconds, trainer, load)
                    job.end([load])
                    # A version comes in between in every second storm.
                    storm = self.one_storm(job, trainer, number, number % 2 == 1)
                    seen.append({"control": control, "loaded": loaded, "storm": storm})
                last = self.window(quiet_seconds, trainer)
                trainer.wait_for("steps", lambda line: line["steps"][-1][0] > last["window"][1])
            finally:
                os.sched_setaffinity(0, all_cores)
            steps = [step for line in trainer.lines("steps") for step in line["steps"]]
        # What 16 policies would take over one lane, for the time until all are on the newest version.
        lane = self.tcp_bench("64", "3")["variants"]["lane_verified_curve_bucket_digests"]
        return dict(storm_row(seen, last, steps, bytes_of_policy), lane=lane)

    @staticmethod
    def window(seconds, *processes):
        others = Others(*(process.process.pid for process in processes))
        begin = time.monotonic_ns()
        time.sleep(seconds)
        return {"window": [begin, time.monotonic_ns()], "others": others.cores()}

    @staticmethod
    def publish(trainer):
        """The next captured point, once the coordinator has committed it."""
        before = len(trainer.lines("point"))
        trainer.tell("publish")
        point = trainer.wait_for("point", lambda line: line["captured"], after=before)
        while trainer.ask()["committed"] < point["number"]:
            time.sleep(0.01)
        return point

    def one_storm(self, job, trainer, number, with_version):
        before = trainer.ask()
        others = Others(trainer.process.pid)
        begin = time.monotonic_ns()
        engines = [
            job.start("core_engine", ["--activation", "flip", "--transport", "tcp", "--name", f"joiner-{number}-{i}"], before=["nice", "-n", "19"])
            for i in range(JOINERS)
        ]
        newest, sent_at_version = before["committed"], None
        if with_version:
            while sum(bool(engine.lines("version")) for engine in engines) < JOINERS // 2:
                if time.monotonic_ns() - begin > 120e9:
                    sys.exit("bench: half of the joiners have no version after two minutes")
                time.sleep(0.01)
            point = self.publish(trainer)
            newest, sent_at_version = point["number"], point["sent_bytes"]
        first = [engine.wait_for("version")["at_ns"] for engine in engines]
        done = [engine.wait_for("version", lambda line: line["number"] >= newest)["at_ns"] for engine in engines]
        taken_by_others = others.cores(*(engine.process.pid for engine in engines))
        statuses = [engine.ask()["status"] for engine in engines]
        after = trainer.ask()
        job.end(engines)
        row = {
            "window": [begin, max(done)],
            "others": taken_by_others,
            "with_version": with_version,
            "served": sorted(status["serving"] for status in statuses),
            "newest": newest,
            "first_s": [(at - begin) / 1e9 for at in first],
            "newest_s": [(at - begin) / 1e9 for at in done],
            "sent_bytes": after["sent_bytes"] - before["sent_bytes"],
            "sent_before_version": None if sent_at_version is None else sent_at_version - before["sent_bytes"],
            "relayed_bytes": sum(status["relayed_bytes"] for status in statuses),
            "rejoined": sum(status["rejoined"] for status in statuses),
            "resent": sum(status["resent"] for status in statuses),
        }
        if row["served"] != [newest] * JOINERS:
            sys.exit(f"bench: after a storm the joiners serve {row['served']}, expected {newest} everywhere")
        print(f"  storm {number}: {JOINERS} joiners on version {newest} in {max(row['newest_s']):.2f} s, {row['sent_bytes'] / 1e6:.0f} MB from the trainer; others took {row['others']:.2f} cores", flush=True)
        return row

    # ---- tight ----------------------------------------------------------------------------------

    def tight(self):
        """A policy of 1 B parameters in bf16, tcp and serial; what is refused where memory is short."""
        policy = 128_000_000 if self.quick else 2_000_000_000
        rounds = 3 if self.quick else 4
        slots = 2
        # Weights, slots with an eighth more, and an image for each of four engines; a tenth to spare.
        needed = int(1.1 * policy * (1 + slots * 1.125 + 4))
        available = mem_available()
        if available < needed:
            why = f"needs {needed / 1e9:.1f} GB of available memory, this machine has {available / 1e9:.1f} GB"
            print(f"  skipped: {why}", flush=True)
            return {"skipped": why}
        lane = self.tcp_bench("256" if not self.quick else "64", "3")
        rows = []
        for engines in (1, 4):
            rows.append(self.bring(policy, slots, engines, rounds))
        return {
            "bytes": policy,
            "slots": slots,
            "lane": lane["variants"],
            "rows": rows,
            "refused_engine": self.refused_engine(policy, slots),
            "refused_trainer": self.refused_trainer(slots),
        }

    def trainer_of(self, job, policy, slots, engines, rounds, *more):
        args = ["--task", "bring", "--transport", "tcp", "--bytes", policy, "--tensors", 200, "--slots", slots]
        return job.start("core_trainer", args + ["--receivers", engines, "--rounds", rounds, *more])

    def bring(self, policy, slots, engines, rounds):
        with Job(self.binaries) as job:
            trainer = self.trainer_of(job, policy, slots, engines, rounds)
            begun = trainer.wait_for("started", patience=300)
            workers = [
                job.start("core_engine", ["--activation", "serial", "--transport", "tcp", "--name", f"engine-{i}"])
                for i in range(engines)
            ]
            bare = [worker.wait_for("started")["memory"]["anonymous"] for worker in workers]
            for number in range(rounds):
                trainer.wait_for("applied", after=number, patience=600)
            status = trainer.ask()
            theirs = [worker.ask() for worker in workers]
            announced = [announced_bytes(worker) for worker in workers]
            applied = trainer.lines("applied")
        for one in theirs:
            used = (one["status"]["activation"], one["status"]["transport"])
            if used != ("serial", "tcp"):
                sys.exit(f"bench: an engine took its version in by {used}, expected serial and tcp")
        row = {
            "engines": engines,
            "bytes": begun["bytes"],
            "first_s": applied[0]["applied_s"],
            "applied_s": statistics.median(line["applied_s"] for line in applied[1:]),
            "rounds": applied,
            "trainer": {
                "anonymous": status["memory"]["peak_anonymous"],
                "slots": status["memory"]["slots"],
                "announced_slots": slots * status["slot_bytes"],
            },
            "engine_announced": max(announced),
            "engine_anonymous": max(one["memory"]["peak_anonymous"] for one in theirs),
            "engine_bare": max(bare),
            "engine_slots": max(one["memory"]["slots"] for one in theirs),
            "engine_memory": [one["memory"] for one in theirs],
            "resent": sum(one["status"]["resent"] for one in theirs),
            "corrupt": sum(one["status"]["corrupt"] for one in theirs),
        }
        print(
            f"  {engines} x serial over tcp: {row['applied_s']:.2f} s = {row['bytes'] / row['applied_s'] / 1e9:.2f} GB/s an engine; "
            f"an engine at most {row['engine_anonymous'] / 1e6:.0f} MB of its own",
            flush=True,
        )
        return row

    def refused_engine(self, policy, slots):
        """An engine that may use half of what even serial needs."""
        with Job(self.binaries) as job:
            trainer = self.trainer_of(job, policy, slots, 1, 1000)
            trainer.wait_for("started", patience=300)
            engine = job.start("core_engine", ["--activation", "auto", "--transport", "tcp"], WEIGHTCAST_MEMORY_BUDGET=str(policy // 2))
            deadline = time.monotonic() + 120
            while True:
                status = engine.ask()["status"]
                if status["last_failure"]:
                    break
                if time.monotonic() > deadline or status["serving"]:
                    sys.exit(f"bench: an engine with too little memory was not refused: {status}")
                time.sleep(0.05)
            memory = engine.ask()["memory"]
        print(f"  refused: {status['last_failure']}", flush=True)
        return {"budget": policy // 2, "why": status["last_failure"], "anonymous": memory["peak_anonymous"]}

    def refused_trainer(self, slots):
        """A trainer whose slots take twice what the machine has."""
        with Job(self.binaries) as job:
            trainer = self.trainer_of(job, 64_000_000, slots, 1, 1, "--slot-bytes", mem_available())
            why = trainer.wait_for("refused", patience=60)["why"]
        print(f"  refused: {why}", flush=True)
        return {"why": why}

    # ---- tcp ------------------------------------------------------------------------------------

    def tcp(self):
        """The lane alone, in units of a plain stream over loopback between the same buffers."""
        result = self.tcp_bench("64", "3") if self.quick else self.tcp_bench("512", "9")
        for name, variant in result["variants"].items():
            print(f"  {name:<36} {variant['gb_per_s']:6.2f} GB/s = {variant['of_plain_stream']:.2f} of the plain stream", flush=True)
        return result

    def tcp_bench(self, *arguments):
        run = subprocess.run([str(self.binaries / "tcp_bench"), *arguments], stdout=subprocess.PIPE, text=True, timeout=600)
        if run.returncode != 0:
            sys.exit(f"bench: tcp_bench ended with status {run.returncode}")
        return json.loads(run.stdout)


def announced_bytes(engine):
    """What an engine's log says that versions take there: its image, and the buckets under way."""
    for line in engine.errors:
        if found := re.search(r"event=activation_chosen .*\bbytes=(\d+)", line):
            return int(found[1])
    sys.exit(f"bench: {engine.name} did not say what it needs; its last lines:\n" + "\n".join(engine.errors))


def storm_row(seen, last, steps, bytes_of_policy):
    """Steps by the window that they ended in. A control window is before and after each storm."""

    def times(window):
        return [ms for end, ms in steps if window[0] < end - ms * 1e6 and end <= window[1]]

    windows = {"control": [], "loaded": [], "storm": []}
    by_round = []
    for number, one in enumerate(seen):
        following = seen[number + 1]["control"] if number + 1 < len(seen) else last
        control = times(one["control"]["window"]) + times(following["window"])
        storm = times(one["storm"]["window"])
        loaded = times(one["loaded"]["window"])
        by_round.append(
            {
                "median": statistics.median(storm) / statistics.median(control) - 1,
                "mean": statistics.mean(storm) / statistics.mean(control) - 1,
                "median_loaded": statistics.median(storm) / statistics.median(loaded) - 1,
                "mean_loaded": statistics.mean(storm) / statistics.mean(loaded) - 1,
                "steps": len(storm),
            }
        )
        windows["control"] += times(one["control"]["window"])
        windows["loaded"] += loaded
        windows["storm"] += storm
    windows["control"] += times(last["window"])
    others = {name: [one[name]["others"] for one in seen] for name in windows}
    others["control"].append(last["others"])
    row = {
        "bytes": bytes_of_policy,
        "joiners": JOINERS,
        "rounds": by_round,
        "storms": [one["storm"] for one in seen],
        "step_ms": {
            name: {
                "median": statistics.median(ms),
                "mean": statistics.mean(ms),
                "steps": len(ms),
                "others": statistics.mean(others[name]),
            }
            for name, ms in windows.items()
        },
        "change": {key: statistics.median(r[key] for r in by_round) for key in ("median", "mean", "median_loaded", "mean_loaded")},
        "raw": windows,
    }
    print(f"  step time in the storm: median {100 * row['change']['median']:+.2f}%, mean {100 * row['change']['mean']:+.2f}%", flush=True)
    return row
