"""What scripts/gpu.sh measures with the large policy: from the end of a step to applied, the pause of a decoding
engine, memory, and what a training loop pays. Drives bench/gpu_trainer, bench/gpu_engine and bench/gpu_overlap.
"""

import json
import shutil
import statistics
import subprocess
import sys
import time

from bench_support import percentile
from gpu_job import Broken, Job, NotRun, query_devices, wait_for_receivers

QWEN3_8B = 16_381_470_720  # bytes in BF16
SLOTS = 2
DECODE_MS = 2
TRANSPORTS = {"host": "shm", "device": "cuda_ipc"}


def policy_bytes(options):
    return options.bytes or QWEN3_8B


def limits(run):
    """Bare copies of as many bytes, in the same run: what the machine allows."""
    command = [run.kit.path("bench/gpu_overlap"), "--bytes", str(policy_bytes(run.options)), "--rounds", "5"]
    result = subprocess.run(command, env=run.kit.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    if result.returncode != 0 or not lines:
        why = lines[-1]["why"] if lines else result.stderr[-500:]
        raise (NotRun if "unavailable" in why else Broken)(f"gpu_overlap: {why}")
    found = lines[-1]
    medians = {name: statistics.median(found[name]) for name in ("d2h_s", "h2d_s", "d2d_s", "ipc_s")}
    overlap = {bucket: statistics.median(times) for bucket, times in found["overlap_s"].items()}
    best = min(overlap, key=overlap.get)
    run.say(
        f"  {found['bytes'] / 1e9:.2f} GB: d2h {medians['d2h_s']:.4f} s, h2d {medians['h2d_s']:.4f} s, both, overlapped between "
        f"two processes, {overlap[best]:.4f} s (buckets of {best} MiB); d2d {1e3 * medians['d2d_s']:.2f} ms, over IPC {1e3 * medians['ipc_s']:.2f} ms"
    )
    return {"bytes": found["bytes"], "median": dict(medians, overlap_s=overlap[best], overlap_bucket_mib=int(best)), "rounds": found}


class Large:
    """A trainer and an engine on one device, with a way to capture and one to take in."""

    def __init__(self, run, staging, activation, **environment):
        self.run = run
        self.bytes = policy_bytes(run.options)
        self.job = Job(run.kit)
        self.staging, self.activation, self.environment = staging, activation, environment

    def __enter__(self):
        self.job.__enter__()
        try:
            transport = TRANSPORTS[self.staging]
            shared = ["--transport", transport]
            self.trainer = self.job.trainer(
                *shared, "--bytes", self.run.options.bytes or 0, "--staging", self.staging, "--slots", SLOTS, "--stall-ms", 100,
                "--device-budget", int(1.2 * SLOTS * self.bytes) + 2**28 if self.staging == "device" else 0,
                **{name: value.format("trainer") for name, value in self.environment.items()},
            )
            self.opened = self.trainer.ready()
            self.bytes = self.trainer.first("weights")["bytes"]
            self.alone = self.trainer.ask()["taken"]
            self.engine = self.job.engine(
                0, *shared, "--activation", self.activation, **{name: value.format("engine") for name, value in self.environment.items()}
            )
            self.joined = self.engine.ready()
            wait_for_receivers(self.trainer, 1)
        except BaseException:
            self.job.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *error):
        self.job.__exit__(*error)

    def bring(self):
        """Another version; its times from the end of the step."""
        self.trainer.tell("next")
        point = self.trainer.take("point")
        verdict = self.trainer.take("verdict")
        if verdict["why"] or verdict["lost"]:
            raise Broken(f"version {point['number']}: {verdict['why'] or verdict['lost']}")
        version = self.engine.take("version", fits=lambda line: line["number"] >= verdict["number"])
        return {
            "number": verdict["number"],
            "at_first": point["captured"] and verdict["number"] == point["number"],
            "applied_s": (version["at_ns"] - point["at_ns"]) / 1e9,
            "verdict_s": (verdict["at_ns"] - point["at_ns"]) / 1e9,
            "capture_s": verdict["capture_s"],
            "hook_us": point["hook_us"],
            "hash": verdict["hash"],
        }

    def memory(self):
        """Of the device beyond the weights of trainer and engine, by who took it. Free memory is the whole device's,
        so the order in which the two start tells them apart."""
        trainer, engine = self.trainer.ask(), self.engine.ask()
        slots = self.opened["slots"] * self.opened["slot_bytes"]
        context = self.alone["device_free"] - self.engine.first("device")["taken"]["device_free"]
        opened = self.opened["before"]["device_free"] - self.opened["taken"]["device_free"]
        since = self.engine.first("device")["taken"]["device_free"] - engine["taken"]["device_free"]
        return {
            "publisher_at_open": opened,
            "device_slots": slots if self.staging == "device" else 0,
            "engine_context": context,
            "engine_and_captures": since,
            "beyond_weights": opened + since - self.bytes,
            "host_slots": slots if self.staging == "host" else 0,
            "trainer": trainer["taken"],
            "engine": engine["taken"],
        }

    def pause(self, rounds):
        """The gaps between steps of an engine that decodes: while the trainer does nothing, while it steps without
        publishing, as its kernels take turns with the engine's on one device, and while versions come."""
        self.engine.tell(f"decode {DECODE_MS}")
        self.engine.ask()
        time.sleep(1)
        self.engine.ask()
        time.sleep(2)
        quiet = self.engine.ask()["decode"]
        for _ in range(rounds):
            self.trainer.ask("step", "stepped")
            time.sleep(0.2)
        stepping = self.engine.ask()["decode"]
        took = [self.bring() for _ in range(rounds)]
        busy = self.engine.ask()["decode"]
        self.engine.tell("decode off")
        return {"quiet": quiet, "stepping": stepping, "busy": busy, "rounds": took}

    def verify(self):
        """One version by hashes of our own on both sides, besides the library's digests."""
        self.trainer.tell("hash on")
        self.engine.tell("hash on")
        self.engine.drop("hashed")
        brought = self.bring()
        hashed = self.engine.take("hashed", fits=lambda line: line["number"] == brought["number"])
        self.trainer.tell("hash off")
        self.engine.tell("hash off")
        if hashed["hashes"] != [brought["hash"]]:
            raise Broken(f"version {brought['number']}: the trainer's hash is {brought['hash']}, the engine's {hashed['hashes']}")
        return brought["hash"]

    def loop(self, blocks, steps):
        """Training steps of a second, publishing each and not, in turns; the first of a block is left out."""
        found = {True: [], False: []}
        whys = []
        for _ in range(blocks):
            for kind in ("without", "with"):
                block = self.trainer.ask(f"block {kind} {steps + 1}", "block", patience=60 + 3 * steps)
                found[block["with"]] += block["steps"][1:]
                whys += [block["why"]] if block["why"] else []
        ours = found[True]
        with_ms, without_ms = (statistics.median(step["step_ms"] for step in found[kind]) for kind in (True, False))
        return {
            "with_ms": with_ms,
            "without_ms": without_ms,
            "slower": with_ms / without_ms - 1,
            "captured": sum(step["captured"] for step in ours),
            "steps": len(ours),
            "why": whys,
            **{
                name: {"p50": percentile([step[name] for step in ours], 50), "max": max(step[name] for step in ours)}
                for name in ("hook_us", "fence_us", "stream_fence_us", "stream_hook_us")
            },
            "raw": {"with": ours, "without": found[False]},
        }


def large(run, staging, activation):
    measured = run.need("limits")
    limit = measured["median"]["overlap_s" if staging == "host" else "ipc_s"]
    with Large(run, staging, activation) as job:
        first = job.bring()
        job.bring()
        early = job.memory()
        rounds = [job.bring() for _ in range(12)]
        memory = job.memory()
        status = job.engine.ask()
        if (status["transport"], status["activation"]) != (TRANSPORTS[staging], activation):
            raise Broken(f"versions came by {status['transport']} and {status['activation']}: {status['activation_reason']}")
        applied = [r["applied_s"] for r in rounds]
        result = {
            "bytes": job.bytes,
            "staging": staging,
            "activation": status["activation"],
            "activation_reason": status["activation_reason"],
            "transport": status["transport"],
            "open_s": job.opened["open_s"],
            "first_s": first["applied_s"],
            "applied_s": statistics.median(applied),
            "applied_best_s": min(applied),
            "applied_p90_s": percentile(applied, 90),
            "limit_s": limit,
            "over_limit": statistics.median(applied) / limit,
            "hook_us": {"p50": percentile([r["hook_us"] for r in rounds], 50), "max": max(r["hook_us"] for r in rounds)},
            "memory": memory,
            "grown_device_bytes": early["engine"]["device_free"] - memory["engine"]["device_free"],
            "hash": job.verify(),
            "pause": job.pause(8),
            "rounds": rounds,
        }
        if activation == "flip":
            result["loop"] = job.loop(*((2, 2) if run.options.bytes else (4, 6)))
        result["failed_attempts"] = job.engine.ask()["failed"]
    busy = result["pause"]["busy"]["gap_us"]
    run.say(
        f"  {staging}, {result['activation']} over {result['transport']}: {1e3 * result['applied_s']:.1f} ms = {result['over_limit']:.2f} x limit; "
        f"hook {result['hook_us']['max']:.0f} us at most; longest gap {busy.get('max', 0):.0f} us; device memory beyond the weights "
        f"{memory['beyond_weights'] / 2**20:.0f} MiB" + (f"; loop {100 * result['loop']['slower']:+.2f}%" if "loop" in result else "")
    )
    return result


def trace(run):
    """A few versions with a trace of each process, for the overlap of the stages."""
    folder = run.out / "trace"
    shutil.rmtree(folder, ignore_errors=True)  # a file that is there is not written over
    folder.mkdir(parents=True)
    with Large(run, "host", "flip", WEIGHTCAST_TRACE=str(folder / "{}.json")) as job:
        rounds = [job.bring() for _ in range(4)]
    return {"files": [f"trace/{name}.json" for name in ("trainer", "engine")], "rounds": rounds}


def several(run):
    """Engines on the other devices of a host with several."""
    count = len(query_devices("name"))
    if count < 2:
        raise NotRun(f"this machine has {count} GPU{'s' if count != 1 else ''}; it takes at least 2")
    rows = []
    ways = [("shm", "host", 1), ("cuda_ipc", "device", 1), ("nccl", "device", 1)]
    for devices in [n for n in (2, 4, 8) if n <= count]:
        # Of engines that share a GPU one is in NCCL; three have room there, of which each has two images.
        for transport, staging, each in ways + [("nccl", "device", 3)] * (devices == 2):
            row = {"devices": devices, "transport": transport + f", {each} engines on the other GPU" * (each > 1)}
            rows.append(row)
            try:
                row.update(spread_out(run, devices, transport, staging, each))
                longest = row["pause"]["busy"]["gap_us"]["max"]
                run.say(f"  {devices} GPUs, {row['transport']}: {1e3 * row['applied_s']:.1f} ms until the last engine; longest gap {longest:.0f} us")
            except NotRun as why:
                row["not_run"] = str(why)
                run.say(f"  {devices} GPUs, {row['transport']}: not run: {why}")
            run.so_far(rows)
    return rows


def spread_out(run, devices, transport, staging, each):
    bytes_ = policy_bytes(run.options)
    with Job(run.kit) as job:
        trainer = job.trainer(
            "--bytes", run.options.bytes or 0, "--transport", transport, "--staging", staging, "--slots", SLOTS,
            "--device-budget", int(1.2 * SLOTS * bytes_) + 2**28 if staging == "device" else 0,
        )
        trainer.ready()
        engines = [
            job.engine(f"{device}-{i}", "--device", device, "--transport", transport, "--activation", "flip")
            for device in range(1, devices)
            for i in range(each)
        ]
        for engine in engines:
            engine.ready()
        wait_for_receivers(trainer, len(engines))
        for process in (trainer, *engines):
            process.tell("hash on")
        free = trainer.ask()["taken"]["device_free"]
        rounds = []
        for index in range(8):
            if index == 1:
                for process in (trainer, *engines):
                    process.tell("hash off")
            trainer.tell("next")
            point, verdict = trainer.take("point"), trainer.take("verdict")
            if verdict["why"] or verdict["lost"]:
                raise Broken(f"version {point['number']}: {verdict['why'] or verdict['lost']}")
            arrived = [engine.take("version", fits=lambda line: line["number"] >= verdict["number"]) for engine in engines]
            if index == 0:
                for engine in engines:
                    hashed = engine.take("hashed", fits=lambda line: line["number"] == verdict["number"])
                    if hashed["hashes"] != [verdict["hash"]]:
                        raise Broken(f"{engine.name} has other bytes than the trainer in version {verdict['number']}")
            else:
                rounds.append((max(line["at_ns"] for line in arrived) - point["at_ns"]) / 1e9)
        used = engines[0].ask()["transport"]
        # Slots and buckets it has had since it was opened: what came since then are NCCL's communicators.
        grown = free - trainer.ask()["taken"]["device_free"]
        # A device of its own: no other process's work takes turns with its decode steps.
        engines[0].tell(f"decode {DECODE_MS}")
        engines[0].ask()
        time.sleep(1)
        engines[0].ask()
        time.sleep(2)
        quiet = engines[0].ask()["decode"]
        for _ in range(8):
            trainer.tell("next")
            trainer.take("point")
            verdict = trainer.take("verdict")
            if verdict["why"] or verdict["lost"]:
                raise Broken(f"version {verdict['number']}: {verdict['why'] or verdict['lost']}")
        busy = engines[0].ask()["decode"]
        engines[0].tell("decode off")
    pause = {"quiet": quiet, "busy": busy}
    return {"engines": len(engines), "used": used, "applied_s": statistics.median(rounds[2:]), "rounds": rounds, "pause": pause, "trainer_grown_bytes": grown}
