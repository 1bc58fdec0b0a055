"""Processes of scripts/gpu.sh: the programs of a kit, and jobs of bench/gpu_trainer and bench/gpu_engine."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time


class NotRun(Exception):
    """What a section needs is not here; the message says what."""


class Broken(Exception):
    """Something did what it must not do."""


class Kit:
    """Programs, where they were built or unpacked, and what they need around them."""

    def __init__(self, folder, python):
        self.folder = pathlib.Path(folder)
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        self.python = python
        self.note = print  # where the last words of processes go, when something broke
        find = "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
        found = subprocess.run([python, "-c", find], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        self.torch = pathlib.Path(found) if found else None
        folders = [self.folder / "lib"]
        if self.torch:
            folders += [self.torch / "lib", *sorted(self.torch.parent.glob("nvidia/*/lib"))]
        before = os.environ.get("LD_LIBRARY_PATH")
        paths = [str(path) for path in folders if path.is_dir()] + ([before] if before else [])
        self.environment = dict(os.environ, LD_LIBRARY_PATH=":".join(paths))

    def programs(self, *kinds):
        return [program for program in self.manifest["programs"] if program["kind"] in kinds]

    def path(self, name):
        path = self.folder / name
        if not path.exists():
            raise NotRun(f"{name} is not among the programs")
        return str(path)


class Process:
    """One that says what it does in JSON lines with a "kind". Lines of a kind are taken one after the other."""

    def __init__(self, name, command, environment):
        self.name = name
        self.said = {}
        self.taken = {}
        self.errors = []
        self.ended = False
        self.changed = threading.Condition()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
        )
        self.readers = [threading.Thread(target=self.read), threading.Thread(target=self.read_errors)]
        for reader in self.readers:
            reader.start()

    def read(self):
        for text in self.process.stdout:
            try:
                line = json.loads(text)
            except ValueError:
                continue  # cut off by a signal
            with self.changed:
                self.said.setdefault(line["kind"], []).append(line)
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def read_errors(self):
        for line in self.process.stderr:
            self.errors = (self.errors + [line.rstrip()])[-30:]

    def tell(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: whoever waits for an answer is told

    def take(self, *kinds, fits=lambda line: True, patience=90):
        """The next line of one of the kinds that fits; what does not fit is passed over."""
        deadline = time.monotonic() + patience
        with self.changed:
            while True:
                for kind in kinds:
                    lines = self.said.get(kind, [])
                    while self.taken.get(kind, 0) < len(lines):
                        line = lines[self.taken.get(kind, 0)]
                        self.taken[kind] = self.taken.get(kind, 0) + 1
                        if fits(line):
                            return line
                left = deadline - time.monotonic()
                if self.ended or left <= 0:
                    why = "ended" if self.ended else f"did not say it within {patience} s"
                    raise Broken(f"{self.name}, asked for {' or '.join(kinds)}, {why}: " + " | ".join(self.errors[-6:]))
                self.changed.wait(left)

    def ask(self, question="status", answer="status", patience=90):
        self.drop(answer)
        self.tell(question)
        return self.take(answer, patience=patience)

    def drop(self, *kinds):
        """What was said of the kinds so far is not taken any more."""
        with self.changed:
            for kind in kinds:
                self.taken[kind] = len(self.said.get(kind, []))

    def ready(self, patience=180):
        """Waits until it has started. NotRun where the library refuses what was asked for."""
        line = self.take("started", "refused", "failed", patience=patience)
        if line["kind"] != "started":
            raise NotRun(f"{self.name}: {line['why']}")
        return line

    def first(self, kind):
        return self.said[kind][0]

    def signal(self, number):
        self.process.send_signal(number)

    def has_ended(self, patience):
        try:
            self.process.wait(timeout=patience)
            return True
        except subprocess.TimeoutExpired:
            return False

    def leave(self):
        """Asks it to: a killed process leaves its shared memory to the next start."""
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass

    def end(self):
        """@return whether it left as it should, or had ended before"""
        self.leave()
        left = self.has_ended(30)
        if not left:
            self.process.kill()
            self.process.wait()
        for reader in self.readers:
            reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return left


class Job:
    """A meeting place and the processes of one job; all have ended when it is left."""

    # Several ranks of NCCL on one device: each takes itself for another host's (for tests alone, it is slow).
    NCCL = {"NCCL_SOCKET_IFNAME": "lo", "NCCL_NET": "Socket", "NCCL_IB_DISABLE": "1", "NCCL_NVLS_ENABLE": "0", "NCCL_MAX_CTAS": "2"}

    def __init__(self, kit, nccl_hosts=False, gathered=False):
        """@param gathered the engines take themselves for processes of one host, of which NCCL needs one"""
        self.kit = kit
        self.nccl_hosts = nccl_hosts
        self.gathered = gathered
        self.processes = []

    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix="wc-gpu-")
        self.environment = dict(self.kit.environment, WEIGHTCAST_DIR=f"{self.directory}/meet", WEIGHTCAST_JOB=f"gpu-{os.getpid()}")
        return self

    def __exit__(self, kind=None, *_):
        # One that has ended by itself, or by a signal that nobody sent, did not mean to.
        ends = {process.name: process.process.poll() for process in self.processes}
        for process in self.processes:
            process.leave()
        for process in self.processes:
            process.end()
        if kind is not None:
            for process in self.processes:
                end = "" if ends[process.name] is None else f" (it had ended with {ends[process.name]})"
                self.kit.note("\n".join([f"--- {process.name} said last{end}:", *process.errors]))
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, name, program, *arguments, **environment):
        if self.nccl_hosts:
            host = "engines" if self.gathered and program.endswith("engine") else len(self.processes)
            environment = dict(self.NCCL, NCCL_HOSTID=f"{os.getpid()}-{host}", **environment)
        command = [self.kit.path(program), *map(str, arguments)]
        process = Process(name, command, dict(self.environment, **environment))
        self.processes.append(process)
        return process

    def trainer(self, *arguments, name="trainer", **environment):
        return self.start(name, "bench/gpu_trainer", *arguments, **environment)

    def engine(self, index, *arguments, **environment):
        name = f"engine-{index}"
        return self.start(name, "bench/gpu_engine", "--name", name, *arguments, **environment)


def wait_for_receivers(trainer, count, patience=60):
    deadline = time.monotonic() + patience
    while True:
        status = trainer.ask()
        # One that joins becomes active with the first version.
        there = [name for name, its in status["receivers"].items() if its["state"] in ("active", "joining")]
        if len(there) >= count:
            return status
        if time.monotonic() > deadline:
            raise Broken(f"{len(there)} of {count} engines came within {patience} s; the trainer says: {status['receivers']}")
        time.sleep(0.02)


def query_devices(*fields):
    """A list of values for each device, as nvidia-smi has them; none without it."""
    try:
        out = subprocess.run(
            ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [[value.strip() for value in line.split(",")] for line in out.splitlines() if line.strip()]


def hardware():
    fields = ("name", "driver_version", "memory.total", "pcie.link.gen.max", "pcie.link.width.max", "clocks.max.sm", "clocks.max.memory", "power.limit")
    model = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    system = re.search(r'PRETTY_NAME="?(.*?)"?$', pathlib.Path("/etc/os-release").read_text(), re.M)
    return {
        "devices": [dict(zip(fields, values)) for values in query_devices(*fields)],
        "cpu": model[1] if model else "",
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": system[1] if system else "",
    }
