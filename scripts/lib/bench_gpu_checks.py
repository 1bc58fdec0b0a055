"""What scripts/gpu.sh checks on a GPU with several processes: that every version is bit for bit the trainer's on every
engine, by hashes that are not the library's, that nothing grows, and what is left when processes are killed and stopped.
"""

import signal
import sys
import time

from gpu_job import Broken, Job, NotRun, query_devices, wait_for_receivers

CHECK_BYTES = 100_000_000
FAULT_BYTES = 2_000_000_000
SHORT = 100  # versions of a check that is not the long one
STORM = 200
DEADLINE_S = 15  # by which survivors are on a next version: an attempt's 10 s, and time to take it in
ACTIVATIONS = ("flip", "staged", "serial", "flip")
LED = "out of the ring of another engine"
STAGING = {"shm": "host", "cuda_ipc": "device", "nccl": "device"}


class Scene:
    """Trainer ranks and engines on one device, or engines on the other devices, with hashes said on both sides.
    `gathered`: the engines are on one device, where NCCL takes one of them."""

    def __init__(self, run, transport, mode="broadcast", ranks=1, engines=1, size=CHECK_BYTES, activations=ACTIVATIONS, spread=False, gathered=False):
        self.run, self.transport, self.mode, self.ranks, self.size = run, transport, mode, ranks, size
        self.activations = activations[:engines]
        self.spread, self.gathered = spread, gathered
        self.job = Job(run.kit, nccl_hosts=transport == "nccl" and (gathered or not spread), gathered=gathered)
        self.seed = 0

    def __enter__(self):
        self.job.__enter__()
        try:
            self.start_trainers()
            self.engines = [
                self.job.engine(
                    i, "--device", self.device_of(i), "--transport", self.transport, "--activation", activation, "--ranks", self.ranks
                )
                for i, activation in enumerate(self.activations)
            ]
            for process in self.engines:
                process.ready()
            self.settle()
        except BaseException:
            self.job.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *error):
        self.job.__exit__(*error)

    def device_of(self, engine):
        return 0 if not self.spread else 1 - engine % 2 if self.gathered else engine + 1

    def start_trainers(self):
        self.seed += 1
        budget = int(1.5 * 4 * self.size) + 2**28 if STAGING[self.transport] == "device" else 0
        self.trainers = [
            self.job.trainer(
                "--bytes", self.size, "--buffers", "--transport", self.transport, "--staging", STAGING[self.transport], "--mode", self.mode,
                "--rank", rank, "--world", self.ranks, "--device-budget", budget, "--attempt-s", 10, "--deadline-s", DEADLINE_S, "--seed", self.seed,
                name=f"trainer-{self.seed}-{rank}",
            )
            for rank in range(self.ranks)
        ]
        for process in self.trainers:
            process.ready()

    def settle(self):
        wait_for_receivers(self.trainers[0], len(self.engines))
        for process in (*self.trainers, *self.engines):
            process.tell("hash on")

    def bring(self, engines=None, strict=True):
        """Another version, and its bytes compared. @return (number, verdicts, the engines' lines)"""
        for trainer in self.trainers:
            trainer.tell("next")
        verdicts = [trainer.take("verdict") for trainer in self.trainers]
        whys = [verdict["why"] for verdict in verdicts if verdict["why"]]
        if strict and whys:
            raise Broken(f"version {verdicts[0]['point']}: {whys[0]}")
        number = verdicts[0]["number"] or verdicts[0]["committed"]
        lines = []
        for engine in self.engines if engines is None else engines:
            line = engine.take("hashed", fits=lambda line: line["number"] >= number, patience=DEADLINE_S + 30)
            expected = [verdict["hash"] for verdict in verdicts]
            if line["number"] == number and line["hashes"] != expected:
                raise Broken(f"version {number} is other bytes on {engine.name}: {line['hashes']}, the trainer's {expected}")
            lines.append(line)
        return number, verdicts, lines

    def states(self):
        """What the engines say of themselves; that they took what was asked for, and nothing else, is checked."""
        states = [engine.ask() for engine in self.engines]
        used = {state["transport"] for state in states}
        if used != {self.transport}:
            raise Broken(f"versions came by {', '.join(sorted(used))}, not by {self.transport}")
        led = sum(LED in state["transport_reason"] for state in states)
        # Where each takes a version by itself, two may want one at different times.
        # And one that is serial takes its bytes after the others have switched.
        at_once = sum(state["activation"] != "serial" for state in states)
        expected = (at_once - 1,) if self.gathered and self.mode == "broadcast" else range(len(states)) if self.gathered else (0,)
        if led not in expected:
            raise Broken(f"{led} of {len(states)} engines got versions from another one: {[state['transport_reason'] for state in states]}")
        for state, activation in zip(states, self.activations):
            if state["activation"] != activation:
                raise Broken(f"an engine takes versions in by {state['activation']}, not {activation}: {state['activation_reason']}")
        return states

    def taken(self):
        return {process.name: process.ask()["taken"] for process in (*self.trainers, *self.engines)}


def growth(before, after):
    """What processes have more of; the device's memory is all processes' together."""
    rows = {
        name: {
            "host_bytes": after[name]["host"]["anonymous"] - its["host"]["anonymous"],
            "descriptors": after[name]["descriptors"] - its["descriptors"],
            "threads": after[name]["threads"] - its["threads"],
        }
        for name, its in before.items()
    }
    some = next(iter(before))
    return {"device_bytes": before[some]["device_free"] - after[some]["device_free"], "processes": rows}


def storm(scene, points):
    """Points as fast as they go, without waiting for anybody; what engines got of them is compared."""
    for process in (*scene.trainers, *scene.engines):
        process.drop("point", "hashed")
    for trainer in scene.trainers:
        trainer.tell(f"storm {points}")
    for trainer in scene.trainers:
        trainer.take("stormed", patience=300)
    known = {}
    for rank, trainer in enumerate(scene.trainers):
        for _ in range(points):
            point = trainer.take("point")
            if point["captured"]:
                known.setdefault(point["number"], [None] * scene.ranks)[rank] = point["hash"]
    scene.bring()
    compared = 0
    for engine in scene.engines:
        for line in engine.said["hashed"]:
            if line["number"] in known:
                compared += 1
                if line["hashes"] != known[line["number"]]:
                    raise Broken(f"version {line['number']} is other bytes on {engine.name}: {line['hashes']}, the trainer's {known[line['number']]}")
    if compared == 0:
        raise Broken("no version of a storm came to an engine")
    return {"points": points, "captured": len(known), "compared": compared}


def combination(run, transport, mode, ranks, engines, versions, gathered=False, spread=False):
    with Scene(run, transport, mode, ranks, engines, gathered=gathered, spread=spread) as scene:
        # Until each engine that has once asked alone has a communicator of its own.
        is_slow = gathered and mode == "p2p"
        warm = versions if is_slow else min(50, versions // 4)
        versions = 2 * versions if is_slow else versions
        begin = time.monotonic()
        compared = 0
        for index in range(versions):
            _, _, lines = scene.bring()
            compared += len(lines)
            if index == warm:
                before = scene.taken()
        seconds = time.monotonic() - begin
        grown = growth(before, scene.taken())
        stormed = storm(scene, STORM if versions > SHORT else STORM // 4)
        states = scene.states()
        return {
            "versions": versions,
            "compared": compared,
            "seconds": seconds,
            "growth": grown,
            "storm": stormed,
            "engines_are": [{name: state[name] for name in ("activation", "transport", "transport_reason", "failed", "rejoined", "corrupt")} for state in states],
        }


LONG = (("broadcast", 1, 4), ("p2p", 2, 2))


def version_seconds(rows, mode, engines):
    """By the rows before with no more engines: they take turns on the device."""
    known = [row for row in rows if row["mode"] == mode and "seconds" in row and row["engines"] <= engines]
    return max((row["seconds"] / row["versions"] * engines / row["engines"] for row in known), default=0)


def check(run, transport, is_long=False, gathered=False, spread=False):
    """1, 2 and 4 engines, and two ranks with two engines, in both modes: two of these long, the others short. `gathered`: of
    the engines one is in NCCL; `spread`: they are on two devices."""
    sizes = ((1, 2), (1, 4), (2, 4)) if gathered else ((1, 1), (1, 2), (1, 4), (2, 2))
    shapes = [(mode, ranks, engines) for mode in ("broadcast", "p2p") for ranks, engines in sizes]
    versions = run.options.versions if is_long else min(SHORT, run.options.versions)
    if spread and len(query_devices("name")) < 2:
        raise NotRun("it takes at least 2 GPUs")
    rows = []
    for mode, ranks, engines in shapes:
        if not gathered and ((mode, ranks, engines) in LONG) != is_long:
            continue
        row = {"transport": transport + ", one of them in NCCL" * gathered + ", 2 GPUs" * spread, "mode": mode, "ranks": ranks, "engines": engines}
        rows.append(row)
        what = f"  {row['transport']}, {mode}, {ranks} rank{'s' * (ranks > 1)}, {engines} engine{'s' * (engines > 1)}: "
        try:
            expected = versions * version_seconds(rows, mode, engines)
            if run.left() < expected:
                raise NotRun(f"{versions} versions may take {expected:.0f} s, and {run.left():.0f} s were left")
            row.update(combination(run, transport, mode, ranks, engines, versions, gathered, spread))
            run.say(
                f"{what}{row['versions']} versions equal in {row['seconds']:.1f} s, {row['storm']['compared']} of a storm; grown: device "
                f"{row['growth']['device_bytes']} B, descriptors {max(its['descriptors'] for its in row['growth']['processes'].values())}"
            )
        except NotRun as why:
            row["not_run"] = str(why)
            run.say(f"{what}not run: {why}")
        except Broken as why:
            row["failed"] = str(why)
            run.say(f"{what}FAILED: {why}")
        run.so_far(rows)
    return rows


# What happens to a process in the middle of something. Each returns what it saw.


def arm(process, failpoint, number):
    process.ask(f"arm {failpoint} {int(number)}", "armed")


def strike(scene, victim, failpoint, number):
    """The victim meets its signal at the failpoint during the next version; one that does not pass it is struck at
    about the middle of it. @return (when, how)"""
    arm(victim, failpoint, number)
    for trainer in scene.trainers:
        trainer.tell("next")
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if number == signal.SIGKILL and victim.process.poll() is not None:
            return time.monotonic(), failpoint
        if number == signal.SIGSTOP and is_stopped(victim):
            return time.monotonic(), failpoint
        time.sleep(0.001)
    victim.signal(number)
    return time.monotonic(), "from outside, having not passed " + failpoint


def is_stopped(process):
    with open(f"/proc/{process.process.pid}/stat", encoding="utf-8") as file:
        return file.read().rsplit(")", 1)[1].split()[0] == "T"


def survivors_go_on(scene, survivors, struck):
    """Seconds until all survivors serve a version newer than those that were under way."""
    verdicts = [trainer.take("verdict", patience=60) for trainer in scene.trainers]
    for process in survivors:
        process.drop("hashed")
    _, _, lines = scene.bring(survivors, strict=False)
    seconds = time.monotonic() - struck
    if seconds > DEADLINE_S:
        raise Broken(f"survivors were on the next version after {seconds:.1f} s; expected {DEADLINE_S} s at most")
    return {"seconds": seconds, "verdict": verdicts[0]["why"] or f"lost {verdicts[0]['lost']}", "survivors": [line["number"] for line in lines]}


def engine_killed(scene, which=0):
    victim = scene.engines[which]
    survivors = [engine for engine in scene.engines if engine is not victim]
    struck, how = strike(scene, victim, "engine.copying", signal.SIGKILL)
    saw = survivors_go_on(scene, survivors, struck)
    scene.engines = survivors
    scene.bring()
    return dict(saw, how=how)


def engine_stopped(scene, which=0):
    victim = scene.engines[which]
    survivors = [engine for engine in scene.engines if engine is not victim]
    struck, how = strike(scene, victim, "engine.copying", signal.SIGSTOP)
    saw = survivors_go_on(scene, survivors, struck)
    victim.signal(signal.SIGCONT)
    wait_for_receivers(scene.trainers[0], len(scene.engines))
    scene.bring()  # with the one that was stopped
    return dict(saw, how=how)


def serve_on(engines, last):
    """Engines without a trainer still serve, bit for bit, what they had."""
    for engine, line in zip(engines, last):
        engine.drop("hashed")
        engine.tell("hash on")
        again = engine.take("hashed")
        if again["number"] == line["number"] and again["hashes"] != line["hashes"]:
            raise Broken(f"{engine.name} serves other bytes of version {line['number']} than before")
        if again["number"] < line["number"]:
            raise Broken(f"{engine.name} went back from version {line['number']} to {again['number']}")


def trainer_killed(scene):
    """A rank in the middle of a capture: engines serve on, and follow the next run."""
    _, _, last = scene.bring()
    victim, *others = list(reversed(scene.trainers))
    # With NCCL, in the middle of a transfer to the engines.
    struck, how = strike(scene, victim, "trainer.sending" if scene.transport == "nccl" else "trainer.copying", signal.SIGKILL)
    serve_on(scene.engines, last)
    for trainer in others:
        trainer.leave()
    for trainer in others:
        trainer.end()
    for engine in scene.engines:
        engine.drop("hashed")
    scene.start_trainers()
    scene.settle()
    number, _, _ = scene.bring()
    return {"how": how, "seconds": time.monotonic() - struck, "next_run_at": number}


def faults(run, transport, spread=False, gathered=False):
    """On one device; `spread`: each engine on a device of its own, or where they are `gathered`, which NCCL then takes for
    those of another host, on two devices."""
    engines = 3
    if spread and gathered:
        if len(query_devices("name")) < 2:
            raise NotRun("it takes at least 2 GPUs")
    elif spread:
        engines = min(engines, len(query_devices("name")) - 1)
        if engines < 1:
            raise NotRun("it takes at least 2 GPUs")
    rows = []
    used = query_devices("memory.used")
    does = "sends" if transport == "nccl" else "captures"
    is_slow = transport == "nccl" and (gathered or not spread)  # several of its ranks on one device
    usual = (
        ("an engine is killed while it copies", engine_killed, 1),
        ("an engine is stopped while it copies, and goes on later", engine_stopped, 1),
        (f"the trainer is killed while it {does}", trainer_killed, 1),
        (f"one of two trainer ranks is killed while it {does}", trainer_killed, 2),
    )
    # The first engine by name leads.
    of_leaders = (
        ("the engine in NCCL is killed while it copies", engine_killed, 1),
        ("another one is killed while it copies", lambda scene: engine_killed(scene, -1), 1),
        ("the engine in NCCL is stopped while it copies, and goes on later", engine_stopped, 1),
        ("another one is stopped while it copies, and goes on later", lambda scene: engine_stopped(scene, -1), 1),
        (f"the trainer is killed while it {does}", trainer_killed, 1),
    )
    for name, act, ranks in of_leaders if gathered else usual:
        for mode in ("broadcast", "p2p"):
            row = {"transport": transport + ", one engine in NCCL" * gathered, "mode": mode, "fault": name}
            if spread:
                row["gpus"] = 2 if gathered else engines + 1
                if ranks > 1 or (act is engine_killed and engines == 1):
                    continue  # ranks would need a device each, too; and somebody has to survive
            rows.append(row)
            try:
                size = FAULT_BYTES // 4 if run.options.bytes or is_slow else FAULT_BYTES
                with Scene(run, transport, mode, ranks, engines, size, ("flip",) * engines, spread, gathered) as scene:
                    scene.bring()
                    before = scene.taken()
                    row.update(act(scene))
                    if gathered:
                        scene.bring()  # whoever came alone comes with the others now
                    scene.states()
                    after = scene.taken()
                    common = {process: its for process, its in before.items() if process in after}
                    row["growth"] = growth(common, after) if common else {}
                run.say(f"  {transport}, {mode}: {name} ({row['how']}): {row['seconds']:.2f} s")
            except NotRun as why:
                row["not_run"] = str(why)
                run.say(f"  {transport}, {mode}: {name}: not run: {why}")
            except Broken as why:
                row["failed"] = str(why)
                run.say(f"  {transport}, {mode}: {name}: FAILED: {why}")
    left = query_devices("memory.used")
    return {"rows": rows, "device_memory_used": {"before": used, "after": left}}


def tight(run):
    """Engines that find too little of the device's memory for a second copy. `auto` falls back a level and says so, also
    where the budget it was given is not there; an activation that was asked for is refused with what it needs."""
    rows = []
    for name, activation, budget in (("auto", "auto", 0), ("auto, with a budget that is not there", "auto", 10), ("flip", "flip", 0), ("staged", "staged", 0)):
        row = {"asked": name}
        rows.append(row)
        try:
            with Scene(run, "shm", engines=0, size=FAULT_BYTES // 4) as scene:
                size = scene.trainers[0].first("weights")["bytes"]
                engine = scene.job.engine(
                    0, "--transport", "shm", "--activation", activation, "--leave-free", int(1.6 * size), "--memory-budget", budget * size
                )
                engine.ready()
                scene.engines = [engine]
                scene.settle()
                if activation == "auto":
                    scene.bring(strict=False)  # it may join again with the level that it found
                    scene.bring()
                else:
                    scene.bring([], strict=False)
                state = engine.ask()
                row.update({what: state[what] for what in ("activation", "activation_reason", "applied", "last_failure")})
                if activation == "auto" and state["activation"] != "serial":
                    raise Broken(f"expected serial, got {state['activation']}: {state['activation_reason']}")
                if activation != "auto" and (state["applied"] or "needs" not in state["last_failure"]):
                    raise Broken(f"expected a refusal that says what is needed, got: {state['last_failure'] or 'none'}")
            run.say(f"  {name}: {row['activation_reason'] if activation == 'auto' else row['last_failure']}")
        except NotRun as why:
            row["not_run"] = str(why)
            run.say(f"  {name}: not run: {why}")
        except Broken as why:
            row["failed"] = str(why)
            run.say(f"  {name}: FAILED: {why}")
    return rows
