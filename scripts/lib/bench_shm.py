"""What scripts/bench.sh measures over shared memory, with torch: publish, loop and memory.

Drives bench/bench_trainer and bench/bench_worker.
"""

import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from bench_support import cpu_seconds, heading, percentile, settled_available

SECTIONS = ("publish", "loop", "memory")


class SharedMemory:
    def __init__(self, options):
        self.binaries = options.build / "bench"
        self.quick = options.quick

    def run(self, trainer, workers=0, worker_args=(), meanwhile=None):
        """One trainer and its workers in a directory of their own; the trainer's JSON."""
        directory = tempfile.mkdtemp(prefix="wc-bench-")
        environment = dict(os.environ, WEIGHTCAST_DIR=f"{directory}/meet", WEIGHTCAST_JOB=f"bench-{os.getpid()}")
        processes = []
        try:
            def start_worker(index):
                command = [str(self.binaries / "bench_worker"), "--worker", str(index), "--directory", directory]
                processes.append(
                    subprocess.Popen(
                        command + list(worker_args),
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        env=dict(environment, OMP_NUM_THREADS="1"),
                        text=True,
                    )
                )
                return processes[-1]

            for index in range(workers):
                start_worker(index)
            command = [str(self.binaries / "bench_trainer"), "--workers", str(workers), "--directory", directory]
            process = subprocess.Popen(
                command + list(trainer), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
            )
            processes.append(process)
            extra = meanwhile(process, processes[:-1], start_worker) if meanwhile else {}
            out, _ = process.communicate(timeout=1200)
            if process.returncode != 0:
                sys.exit(f"bench: {' '.join(command + list(trainer))} ended with status {process.returncode}")
            return dict(json.loads(out.splitlines()[-1]), **extra)
        finally:
            # Asked first: a killed worker leaves what it served from to the next start. Those of the raw
            # baselines have nothing to leave, and do not listen.
            if "--raw" in worker_args:
                for process in processes[:workers]:
                    process.kill()
            for process in processes:
                if process.stdin and not process.stdin.closed:
                    process.stdin.close()
            for process in processes:
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            shutil.rmtree(directory, ignore_errors=True)

    def publish(self):
        rounds = "3" if self.quick else "25"
        rows = []
        for dtype, cast in (("bf16", ""),) if self.quick else (("f32", ""), ("bf16", ""), ("f32", "bf16")):
            worker_dtype = cast or dtype
            for workers in (1,) if self.quick else (1, 4):
                for activation in ("view", "flip"):
                    args = ["--mode", "publish", "--dtype", dtype, "--rounds", rounds]
                    result = self.run(
                        args + (["--cast", cast] if cast else []),
                        workers,
                        ["--activation", activation, "--dtype", worker_dtype],
                    )
                    rows.append(self.row(result, dtype, cast, workers, activation))
                if cast:
                    continue
                for socket in ("ipc", "stream"):
                    result = self.run(
                        ["--mode", "raw", "--socket", socket, "--dtype", dtype, "--rounds", rounds],
                        workers,
                        ["--raw", socket, "--dtype", dtype],
                    )
                    rows.append(self.row(result, dtype, cast, workers, f"raw bytes, {socket}"))
        return rows

    @staticmethod
    def row(result, dtype, cast, workers, way):
        ratios = [r["applied_s"] / r["memcpy_s"] for r in result["rounds"]]
        row = {
            "dtype": dtype + (f" as {cast}" if cast else ""),
            "workers": workers,
            "way": way,
            "bytes": result["bytes"],
            "memcpy_ms": 1e3 * statistics.median(r["memcpy_s"] for r in result["rounds"]),
            "applied_ms": 1e3 * statistics.median(r["applied_s"] for r in result["rounds"]),
            "memcpys": statistics.median(ratios),
            "memcpys_p90": percentile(ratios, 90),
            "rounds": result["rounds"],
        }
        print(f"  {row['dtype']:<12} {workers} x {way:<17} {row['applied_ms']:8.1f} ms = {row['memcpys']:.2f} memcpys", flush=True)
        return row

    def loop(self):
        """Publishes every step; blocks of the control loop and of ours in turn, so that drift hits both."""
        rounds = "6" if self.quick else "70"
        ours, control, voided = [], [], 0
        for _ in range(1 if self.quick else 3):
            args = ["--mode", "loop", "--rounds", rounds]
            result = self.run(args, 1, ["--activation", "view"])
            ours += result["steps"][2:]
            voided += result["voided"]
            control += self.run(args + ["--without"])["steps"][2:]
        waits = [s["fence_s"] + s["hook_s"] for s in ours]
        captured = [s["fence_s"] + s["hook_s"] for s in ours if s["point"] == "captured"]
        row = {
            "tensors": result["tensors"],
            "steps": len(ours),
            "captured": len(captured),
            "voided": voided,
            "step_ms": 1e3 * statistics.median(s["step_s"] for s in ours),
            "control_ms": 1e3 * statistics.median(s["step_s"] for s in control),
            "wait_p50_ms": 1e3 * percentile(waits, 50),
            "wait_p99_ms": 1e3 * percentile(waits, 99),
            "wait_max_ms": 1e3 * max(waits),
            "raw": {"with": ours, "without": control},
        }
        row["slowdown"] = row["step_ms"] / row["control_ms"] - 1
        print(f"  fence + hook: p50 {row['wait_p50_ms']:.3f} ms, p99 {row['wait_p99_ms']:.3f} ms; step {100 * row['slowdown']:+.1f}%", flush=True)
        return row

    def memory(self):
        """MemAvailable with one view worker, and after three more have joined and run a forward.

        All in one job: the trainer's gigabytes come and go by more than a worker costs. A worker process
        has memory of its own (libtorch's heap above all): the same with a policy of next to no bytes
        tells that apart from what the policy costs, in turn."""
        idle = []

        def look(tiny):
            def meanwhile(trainer, workers, start_worker):
                trainer.stdout.readline()  # ready: the first serves the version
                workers[0].stdout.readline()  # has run a forward
                before, settled = settled_available()
                more = [start_worker(index) for index in range(1, 4)]
                for worker in more:
                    worker.stdout.readline()
                after, settled_too = settled_available()
                seen = {"used": before - after, "settled": settled and settled_too, "dirty_kib": sum(private_dirty(w.pid) for w in workers + more)}
                if not tiny and not idle:
                    pids = [process.pid for process in [trainer] + workers + more]
                    at_first = [cpu_seconds(pid) for pid in pids]
                    pause = 2 if self.quick else 20
                    time.sleep(pause)
                    idle.extend((cpu_seconds(p) - b) / pause for p, b in zip(pids, at_first))
                trainer.stdin.close()
                trainer.stdin = None
                return seen

            size = ["--tiny"] if tiny else []
            return self.run(["--mode", "idle"] + size, 1, ["--activation", "view", "--forward"] + size, meanwhile)

        rounds = [{"policy": look(False), "tiny": look(True)} for _ in range(1 if self.quick else 3)]
        policy = rounds[0]["policy"]["bytes"]
        whole = statistics.median(r["policy"]["used"] for r in rounds)
        bare = statistics.median(r["tiny"]["used"] for r in rounds)
        row = {
            "policy_bytes": policy,
            "whole_bytes": whole,
            "bare_bytes": bare,
            "more_policies": (whole - bare) / policy,
            "dirty_kib": max(r["policy"]["dirty_kib"] for r in rounds),
            "idle_share": idle,
            "rounds": rounds,
        }
        print(
            f"  four view workers cost {whole / 1e6:.0f} MB more than one, {bare / 1e6:.0f} MB of it without a policy: "
            f"{row['more_policies']:.3f} policies; idle {max(idle):.4f} of a core",
            flush=True,
        )
        return row


def private_dirty(pid):
    """KiB of private dirty pages in the process's mappings of slots."""
    total, inside = 0, False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = "/dev/shm/weightcast." in line
        elif inside and line.startswith("Private_Dirty:"):
            total += int(line.split()[1])
    return total


def tables(results):
    lines = [heading(results["machine"])]
    for section, table in (("publish", publish_table), ("loop", loop_table), ("memory", memory_table)):
        if section in results:
            lines += table(results[section])
    return "\n".join(lines)


def publish_table(rows):
    lines = ["", "### From publish point to applied by all workers, trainer idle", ""]
    lines += ["| published | workers | way | ms (median) | memcpys of the same bytes | p90 | raw bytes, ipc / this | raw bytes, stream / this |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    raw = {(r["dtype"], r["workers"], r["way"]): r["memcpys"] for r in rows if r["way"].startswith("raw")}
    for r in rows:
        over = []
        for socket in ("ipc", "stream"):
            # A cast policy's bytes are those of a bf16 one: what the plain twin ships without a cast.
            baseline = raw.get((r["dtype"].rpartition(" ")[2], r["workers"], f"raw bytes, {socket}"))
            over.append("–" if baseline is None or r["way"].startswith("raw") else f"{baseline / r['memcpys']:.1f}")
        lines.append(
            f"| {r['dtype']}, {r['bytes'] / 1e6:.0f} MB | {r['workers']} | {r['way']} | {r['applied_ms']:.1f} | "
            f"{r['memcpys']:.2f} | {r['memcpys_p90']:.2f} | {over[0]} | {over[1]} |"
        )
    return lines


def loop_table(loop):
    lines = ["", "### What the trainer's thread pays, publishing every step", ""]
    lines += ["| tensors | steps | captured | fence + hook p50 | p99 | longest | step | control loop | step / control | p99 / control loop's step |", "|---|---|---|---|---|---|---|---|---|---|"]
    lines.append(
        f"| {loop['tensors']} | {loop['steps']} | {loop['captured']} | {loop['wait_p50_ms']:.3f} ms | {loop['wait_p99_ms']:.3f} ms | "
        f"{loop['wait_max_ms']:.3f} ms | {loop['step_ms']:.0f} ms | {loop['control_ms']:.0f} ms | {1 + loop['slowdown']:.3f} | "
        f"{loop['wait_p99_ms'] / loop['control_ms']:.4f} |"
    )
    return lines


def memory_table(memory):
    whole, bare, policy = memory["whole_bytes"], memory["bare_bytes"], memory["policy_bytes"]
    lines = ["", "### Memory and idle cost", "", "| what | value | limit or baseline |", "|---|---|---|"]
    lines.append(
        f"| four `view` workers that have run a forward, beyond one: whole processes (MemAvailable, {whole / policy:.3f} policies) | {whole / 1e6:.0f} MB | "
        f"{bare / 1e6:.0f} MB: the same with a policy of next to no bytes, what three more libtorch processes cost |"
    )
    lines.append(f"| the difference: what the policy costs for three more workers, in policies of {policy / 1e6:.0f} MB | {memory['more_policies']:.3f} | 0.1; copies would be 3 |")
    lines.append(f"| private dirty pages in the workers' slot mappings | {memory['dirty_kib']} KiB | 0 |")
    lines.append(f"| idle: share of a core, trainer | {memory['idle_share'][0]:.4f} | 0.01 |")
    lines.append(f"| idle: share of a core, each of four workers (greatest) | {max(memory['idle_share'][1:]):.4f} | 0.01 |")
    return lines
