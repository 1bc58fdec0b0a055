"""A job of bench/core_trainer and bench/core_engine: processes that say what they do in JSON lines."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time


class Process:
    """One of them. What it says is read as it comes, by a thread of its own."""

    def __init__(self, command, environment):
        self.name = " ".join(command)
        self.said = []
        self.changed = threading.Condition()
        self.ended = False
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
        )
        self.errors = []
        self.readers = [threading.Thread(target=self.read), threading.Thread(target=self.read_errors)]
        for reader in self.readers:
            reader.start()

    def read(self):
        for line in self.process.stdout:
            with self.changed:
                self.said.append(json.loads(line))
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def read_errors(self):
        for line in self.process.stderr:
            self.errors = (self.errors + [line.rstrip()])[-20:]

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def lines(self, kind):
        with self.changed:
            return [line for line in self.said if line["kind"] == kind]

    def wait_for(self, kind, fits=lambda line: True, after=0, patience=120):
        """The first line of that kind after the first `after` ones that fits."""
        deadline = time.monotonic() + patience
        with self.changed:
            while True:
                for line in [line for line in self.said if line["kind"] == kind][after:]:
                    if fits(line):
                        return line
                left = deadline - time.monotonic()
                if self.ended or left <= 0:
                    why = "ended" if self.ended else f"said no {kind} within {patience} s"
                    sys.exit(f"bench: {self.name} {why}; its last lines:\n" + "\n".join(self.errors))
                self.changed.wait(left)

    def ask(self):
        before = len(self.lines("status"))
        self.tell("status")
        return self.wait_for("status", after=before)

    def leave(self):
        """Asks it to leave: a killed process leaves its shared memory to the next start."""
        if not self.process.stdin.closed:
            try:
                self.process.stdin.close()
            except BrokenPipeError:
                pass

    def end(self):
        self.leave()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for reader in self.readers:
            reader.join()
        self.process.stdout.close()
        self.process.stderr.close()


class Job:
    """A meeting place and the processes of one job; all have ended when it is left."""

    def __init__(self, binaries):
        self.binaries = binaries
        self.processes = []

    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix="wc-bench-")
        self.environment = dict(os.environ, WEIGHTCAST_DIR=f"{self.directory}/meet", WEIGHTCAST_JOB=f"bench-{os.getpid()}")
        return self

    def __exit__(self, *_):
        self.end(self.processes)
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, program, arguments, before=(), **environment):
        command = list(before) + [str(self.binaries / program)] + [str(argument) for argument in arguments]
        process = Process(command, dict(self.environment, **environment))
        self.processes.append(process)
        return process

    def end(self, processes):
        for process in processes:
            process.leave()
        for process in list(processes):
            process.end()
        self.processes = [process for process in self.processes if process not in processes]
