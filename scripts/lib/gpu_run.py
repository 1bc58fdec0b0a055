"""The sections of scripts/gpu.sh on a machine with a GPU. Writes gpu.json, after each section, and gpu.log."""

import argparse
import datetime
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
import traceback

import bench_gpu
import bench_gpu_checks as checks
from gpu_job import Broken, Kit, NotRun, hardware, query_devices


# Name, about how many seconds it takes at most, what it does.
SECTIONS = {
    "tests": (150, lambda run: tests(run)),
    "sanitize": (240, lambda run: sanitize(run)),
    "probe": (60, lambda run: probe(run)),
    "limits": (60, bench_gpu.limits),
    "host_flip": (200, lambda run: bench_gpu.large(run, "host", "flip")),
    "ipc_flip": (180, lambda run: bench_gpu.large(run, "device", "flip")),
    "host_staged": (120, lambda run: bench_gpu.large(run, "host", "staged")),
    "ipc_staged": (100, lambda run: bench_gpu.large(run, "device", "staged")),
    "host_serial": (120, lambda run: bench_gpu.large(run, "host", "serial")),
    "ipc_serial": (100, lambda run: bench_gpu.large(run, "device", "serial")),
    "baseline": (180, lambda run: baseline(run)),
    "trace": (100, bench_gpu.trace),
    "several": (240, bench_gpu.several),
    "check_shm": (240, lambda run: checks.check(run, "shm")),
    "check_cuda_ipc": (240, lambda run: checks.check(run, "cuda_ipc")),
    "check_nccl": (240, lambda run: checks.check(run, "nccl")),
    "long_shm": (240, lambda run: checks.check(run, "shm", is_long=True)),
    "long_cuda_ipc": (240, lambda run: checks.check(run, "cuda_ipc", is_long=True)),
    "long_nccl": (300, lambda run: checks.check(run, "nccl", is_long=True)),
    "faults_shm": (180, lambda run: checks.faults(run, "shm")),
    "faults_cuda_ipc": (180, lambda run: checks.faults(run, "cuda_ipc")),
    "faults_nccl": (240, lambda run: checks.faults(run, "nccl")),
    "faults_several": (240, lambda run: checks.faults(run, "nccl", spread=True)),
    "check_leaders": (150, lambda run: checks.check(run, "nccl", gathered=True)),
    "check_leaders_several": (150, lambda run: checks.check(run, "nccl", gathered=True, spread=True)),
    "faults_leaders": (200, lambda run: checks.faults(run, "nccl", gathered=True)),
    "faults_leaders_several": (200, lambda run: checks.faults(run, "nccl", spread=True, gathered=True)),
    "tight": (60, checks.tight),
}
SANITIZED = "*Kernel*:*Cast*"  # the cases that run our kernels


class Run:
    def __init__(self, options):
        self.options = options
        self.out = options.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.log = open(self.out / "gpu.log", "a", encoding="utf-8")
        self.begun = time.monotonic()
        self.sections = {}
        self.kit = Kit(options.kit, sys.executable)
        self.kit.note = self.note
        self.machine = hardware()
        self.started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")

    def say(self, text):
        print(text, flush=True)
        self.note(text)

    def note(self, text):
        self.log.write(text.rstrip() + "\n")
        self.log.flush()

    def left(self):
        return 60 * self.options.minutes - (time.monotonic() - self.begun) if self.options.minutes else float("inf")

    def need(self, name):
        """The result of a section that others are given beside; it runs now if it has not."""
        if name not in self.sections:
            self.section(name)
        its = self.sections[name]
        if its["state"] != "ran":
            raise NotRun(f"it is given beside {name}, which did not run: {its['why']}")
        return its["result"]

    def section(self, name):
        if name in self.sections:
            return
        seconds, work = SECTIONS[name]
        about = {"run": self.started, "date": datetime.date.today().isoformat(), "machine": self.machine, "command": command(self.options), "commit": self.kit.manifest["commit"]}
        if self.left() < seconds:
            self.keep(name, dict(about, state="not run", why=f"it may take {seconds} s, and {self.left():.0f} s were left"))
            return
        self.say(f"{name}:")
        begin = time.monotonic()
        self.present = (name, about)
        try:
            found = {"state": "ran", "result": work(self)}
            if has_failure(found["result"]):
                found = dict(found, state="failed", why="see its rows")
        except NotRun as why:
            found = {"state": "not run", "why": str(why)}
        except Broken as why:
            found = {"state": "failed", "why": str(why)}
        except Exception as error:  # the other sections still run
            self.note(traceback.format_exc())
            found = {"state": "failed", "why": f"{type(error).__name__}: {error}"}
        self.keep(name, dict(about, seconds=round(time.monotonic() - begin, 1), **found))

    def so_far(self, rows):
        """Keeps what the present section has found, should the run be ended in the middle of it."""
        name, about = self.present
        self.write(dict(self.sections, **{name: dict(about, state="cut off", why="the run was ended in the middle of it", result=rows)}))

    def keep(self, name, found):
        if found["state"] != "ran":
            self.say(f"{name}: {found['state']}: {found['why']}")
        self.sections[name] = found
        self.write(self.sections)

    def write(self, sections):
        part = self.out / "gpu.json.part"
        part.write_text(json.dumps({"sections": sections}, indent=1) + "\n")
        os.replace(part, self.out / "gpu.json")


def has_failure(result):
    """Whether a row of it, at any depth, says that it failed."""
    if isinstance(result, dict):
        return (isinstance(result.get("failed"), str) and result["failed"] != "") or any(map(has_failure, result.values()))
    return isinstance(result, list) and any(map(has_failure, result))


def command(options):
    words = ["scripts/gpu.sh"]
    for name in ("only", "minutes", "bytes"):
        if getattr(options, name):
            words.append(f"--{name} {getattr(options, name)}")
    if options.versions != 1000:
        words.append(f"--versions {options.versions}")
    return " ".join(words)


def run_logged(run, words, timeout, **environment):
    """(status, output); None for the status of one that ran out of time."""
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=dict(run.kit.environment, **environment), start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=timeout)
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        status = None
    run.note(f"--- {' '.join(map(os.path.basename, words))}\n{output}")
    return status, output


def counts_of(output):
    return {
        "passed": len(re.findall(r"^\[       OK \]", output, re.M)),
        "failed_cases": sorted(set(re.findall(r"^\[  FAILED  \] (\S+?),? .*\(\d+ ms\)$", output, re.M))),
        "skipped": len(re.findall(r"^\[  SKIPPED \] \S+ \(\d+ ms\)$", output, re.M)),
        "skip_reasons": sorted(set(reason.strip() for reason in re.findall(r": Skipped\n(.*)", output))),
    }


def tests(run):
    rows = []
    found = run.kit.programs("test", "torch test")
    if not found:
        raise NotRun("there is no GPU test among the programs")
    for program in found:
        row = {"program": program["path"]}
        rows.append(row)
        if program["torch"] and run.kit.torch is None:
            row["not_run"] = f"{run.kit.python} has no torch; set WEIGHTCAST_PYTHON to one that has"
            run.say(f"  {program['path']}: not run: {row['not_run']}")
            continue
        status, output = run_logged(run, [run.kit.path(program["path"])], 150, OMP_NUM_THREADS="1")
        row.update(counts_of(output))
        if status != 0:
            row["failed"] = "it ran out of time" if status is None else f"status {status}: " + ", ".join(row["failed_cases"][:10])
            if not row["failed_cases"]:
                row["failed"] += " " + output.strip()[-300:]
        run.say(f"  {program['path']}: {row['passed']} passed, {row['skipped']} skipped" + (f", FAILED: {row['failed']}" if "failed" in row else ""))
        for reason in row["skip_reasons"]:
            run.say(f"    skipped: {reason}")
    return rows


def probe(run):
    """What the driver gives, copy by copy and kernel by kernel."""
    status, output = run_logged(run, [run.kit.path("bench/gpu_probe")], 120)
    if status != 0:
        raise (NotRun if "unavailable" in output else Broken)(output.strip()[-300:])
    found = json.loads(output[output.index("{") : output.rindex("}") + 1])
    for name, its in found.items():
        if isinstance(its, dict) and "median_gb_s" in its:
            run.say(f"  {name}: {its['median_gb_s']:.1f} GB/s")
    return found


def sanitize(run):
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None:
        raise NotRun("there is no compute-sanitizer here")
    chosen = []
    for program in run.kit.programs("test"):
        _, cases = run_logged(run, [run.kit.path(program["path"]), "--gtest_list_tests", "--gtest_filter=" + SANITIZED], 60)
        if re.search(r"^  \S", cases, re.M):
            chosen.append(program)
    if not chosen:
        raise NotRun("there is no test of the kernels among the programs")
    rows = []
    for program in chosen:
        for name in ("memcheck", "racecheck"):
            row = {"program": program["path"], "tool": name}
            rows.append(row)
            words = [tool, "--tool", name, "--error-exitcode", "86", run.kit.path(program["path"]), "--gtest_filter=" + SANITIZED]
            status, output = run_logged(run, words, 200)
            summary = re.findall(r"^=+ (ERROR SUMMARY.*|RACECHECK SUMMARY.*)$", output, re.M)
            row.update(counts_of(output), summary=summary[-1] if summary else "")
            if status != 0 or not summary or row["passed"] == 0:
                row["failed"] = "it ran out of time" if status is None else f"status {status}: {row['summary'] or output.strip()[-300:]}"
            run.say(f"  {name} {program['path']}: {row['summary'] or row['failed']}")
    return rows


def baseline(run):
    """checkpoint-engine on the same device with a policy of the same shape."""
    if run.kit.torch is None:
        raise NotRun(f"{run.kit.python} has no torch; set WEIGHTCAST_PYTHON to one that has")
    path = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    with tempfile.TemporaryDirectory() as folder:
        if run.options.wheels:
            wheels = sorted(map(str, run.options.wheels.glob("*.whl")))
            if not wheels:
                raise NotRun(f"--wheels: there is no wheel in {run.options.wheels.name}")
            words = [run.kit.python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", folder, *wheels]
            status, output = run_logged(run, words, 100)
            if status != 0:
                raise NotRun(f"the wheels could not be installed: {output.strip()[-300:]}")
            path.insert(0, folder)
        script = run.options.root / "bench" / "ce_baseline.py"
        words = [run.kit.python, str(script), "--bytes", str(run.options.bytes or 0)]
        process_environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
        result = subprocess.run(
            words, env=dict(process_environment, PYTHONPATH=":".join(path)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=280
        )
    run.note(result.stdout + result.stderr)
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    if result.returncode == 3 and lines:
        raise NotRun(lines[-1]["why"])
    if result.returncode != 0 or not lines:
        raise Broken(f"ce_baseline.py ended with {result.returncode}: {result.stderr.strip()[-400:]}")
    best = min((row for row in lines[-1]["rounds"] if row["way"] == "pinned"), key=lambda row: row["total_s"])
    run.say(f"  checkpoint-engine {lines[-1]['version']}, {lines[-1]['bytes'] / 1e9:.2f} GB: {best['total_s']:.3f} s at its best, its update {best['update_s']:.3f} s")
    return lines[-1]


def main():
    parser = argparse.ArgumentParser(prog="gpu.sh")
    parser.add_argument("--kit", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--only")
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--bytes", type=int, default=0)
    parser.add_argument("--versions", type=int, default=1000)
    parser.add_argument("--wheels", type=pathlib.Path)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        for name, (seconds, _) in SECTIONS.items():
            print(f"{name:<16} about {seconds} s at most")
        return 0
    wanted = options.only.split(",") if options.only else list(SECTIONS)
    for name in wanted:
        if name not in SECTIONS:
            parser.error(f"--only: {name} is none of {', '.join(SECTIONS)}")
    options.out = options.out or options.root / "bench" / "results" / "gpu"
    run = Run(options)
    devices = query_devices("name", "memory.total")
    run.say(f"GPUs: {', '.join(' '.join(values) for values in devices) or 'none that nvidia-smi knows'}; programs of {run.kit.manifest['commit'][:12]}")
    for name in wanted:
        run.section(name)
    states = [its["state"] for its in run.sections.values()]
    run.say(f"{states.count('ran')} ran, {states.count('failed')} failed, {states.count('not run')} not run; results in {options.out / 'gpu.json'}")
    return 1 if "failed" in states else 0


if __name__ == "__main__":
    sys.exit(main())
