"""Runs the test executables that a Meson build registered and counts their GoogleTest cases.

  run_tests.py targets --build DIR [--suite NAME]...           the ninja targets of those suites
  run_tests.py run     --build DIR --summary FILE [options]    runs them, one line for each
  run_tests.py total   FILE...                                 the closing line over all summaries

A case counts once for each build it ran in. An executable that crashes, runs out of time, exits
non-zero without a failed case (a sanitizer's report), leaves processes behind or holds no test at
all is a failure of its own. `total` exits non-zero when anything failed or nothing ran.
"""

import argparse
import concurrent.futures
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time


def introspect(build, what):
    return json.loads(
        subprocess.run(
            [sys.executable, "-m", "mesonbuild.mesonmain", "introspect", "--" + what, build],
            check=True,
            stdout=subprocess.PIPE,
        ).stdout
    )


def selected_tests(build, suites):
    def names(test):
        return {suite.split(":")[-1] for suite in test["suite"]}

    tests = introspect(build, "tests")
    return [test for test in tests if not suites or names(test) & set(suites)]


def ninja_targets(build, tests):
    """Executables of the tests and of what they say they depend on, relative to the build."""
    build = os.path.realpath(build)
    outputs = {
        target["id"]: target["filename"] for target in introspect(build, "targets")
    }
    files = []
    for test in tests:
        files += test["cmd"]
        for target in test["depends"]:
            files += outputs.get(target, [])
    inside = {
        os.path.relpath(os.path.realpath(name), build)
        for name in files
        if os.path.realpath(name).startswith(build + os.sep)
    }
    return sorted(inside)


def processes_of_session(session):
    """Processes (not zombies) whose session is the one that a test started in, with their names."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                stat = file.read()
        except OSError:
            continue  # it has just ended
        name = stat[stat.index("(") + 1 : stat.rindex(")")]
        state, _, _, its_session = stat[stat.rindex(")") + 2 :].split()[:4]
        if int(its_session) == session and state not in "ZX":
            found.append((int(entry), name))
    return found


class Outcome:
    def __init__(self, name):
        self.name = name
        self.passed = 0
        self.failed = 0
        self.skipped = 0
        self.problems = []  # failures that are not a case's
        self.seconds = 0.0
        self.output = ""

    def failures(self):
        return self.failed + len(self.problems)


def count_cases(outcome, report_path):
    """Fills in the counts from GoogleTest's report or, after a crash, from what it printed."""
    try:
        with open(report_path, encoding="utf-8") as file:
            report = json.load(file)
    except (OSError, ValueError):
        outcome.passed = len(re.findall(r"^\[       OK \] .*ms\)$", outcome.output, re.M))
        outcome.failed = len(re.findall(r"^\[  FAILED  \] .*ms\)$", outcome.output, re.M))
        outcome.skipped = len(re.findall(r"^\[  SKIPPED \] .*ms\)$", outcome.output, re.M))
        return False
    for suite in report["testsuites"]:
        for case in suite["testsuite"]:
            if case.get("failures"):
                outcome.failed += 1
            elif case["status"] == "NOTRUN" or case["result"] == "SKIPPED":
                outcome.skipped += 1
            else:
                outcome.passed += 1
    return True


def run_test(test, arguments):
    outcome = Outcome(test["name"])
    if not os.access(test["cmd"][0], os.X_OK):
        outcome.problems.append(f"{test['cmd'][0]} was not built")
        return outcome
    limit = test["timeout"] * arguments.timeout_factor
    with tempfile.TemporaryDirectory(prefix="weightcast-tests-") as scratch:
        report_path = os.path.join(scratch, "report.json")
        output_path = os.path.join(scratch, "output.txt")
        command = shlex.split(arguments.wrapper) + test["cmd"]
        command.append("--gtest_output=json:" + report_path)
        if arguments.filter:
            command.append("--gtest_filter=" + arguments.filter)
        environment = dict(os.environ, **test["env"])
        started = time.monotonic()
        with open(output_path, "wb") as output:
            process = subprocess.Popen(
                command,
                cwd=test["workdir"] or scratch,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                status = None
                outcome.problems.append(f"still running after {limit:.0f} s")
            except BaseException:
                kill_session(process)
                raise
        outcome.seconds = time.monotonic() - started
        left = processes_of_session(process.pid)
        if left and status is not None:
            names = ", ".join(f"{name} ({pid})" for pid, name in left)
            outcome.problems.append(f"left processes behind: {names}")
        kill_session(process)
        with open(output_path, encoding="utf-8", errors="replace") as file:
            outcome.output = file.read()
        has_report = count_cases(outcome, report_path)
    if status is not None and status < 0:
        outcome.problems.append(f"ended by {signal.Signals(-status).name}")
    elif status is not None and not has_report:
        outcome.problems.append(f"exit status {status}, no report")
    elif status and not outcome.failed:
        outcome.problems.append(f"exit status {status} though no case failed")
    cases = outcome.passed + outcome.failed + outcome.skipped
    if cases == 0 and not arguments.filter and not outcome.problems:
        outcome.problems.append("holds no test")
    return outcome


def kill_session(process):
    """Ends what a test started and left, and nothing else; the test itself is reaped."""
    for pid, _ in processes_of_session(process.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()


def run(arguments):
    tests = selected_tests(arguments.build, arguments.suite)
    # Processes that are killed and stopped: they wait for timeouts more than they compute.
    waiting = [test for test in tests if any(s.endswith("four-at-once") for s in test["suite"])]
    together = [test for test in tests if test["is_parallel"] and test not in waiting]
    alone = [test for test in tests if not test["is_parallel"]]
    # The long ones first, so that the cores stay busy to the end.
    together.sort(key=lambda test: -test["timeout"])
    lock = threading.Lock()
    outcomes = []

    def one(test):
        outcome = run_test(test, arguments)
        with lock:
            outcomes.append(outcome)
            done = f"[{len(outcomes)}/{len(tests)}]"
            mark = "FAILED" if outcome.failures() else "ok"
            print(
                f"{done} {arguments.label} {outcome.name}: {mark}, {outcome.passed} passed, "
                f"{outcome.failed} failed, {outcome.skipped} skipped, {outcome.seconds:.1f} s"
            )
            if outcome.failures():
                print(f"---- output of {outcome.name}")
                print(outcome.output.rstrip())
                for problem in outcome.problems:
                    print(f"---- {outcome.name}: {problem}")
            sys.stdout.flush()

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool, \
            concurrent.futures.ThreadPoolExecutor(4) as beside:
        futures = [beside.submit(one, test) for test in waiting]
        futures += [pool.submit(one, test) for test in together]
        for future in futures:
            future.result()
    for test in alone:
        one(test)

    summary = {
        "label": arguments.label,
        "passed": sum(outcome.passed for outcome in outcomes),
        "failed": sum(outcome.failures() for outcome in outcomes),
        "skipped": sum(outcome.skipped for outcome in outcomes),
        "failures": [outcome.name for outcome in outcomes if outcome.failures()],
    }
    with open(arguments.summary, "w", encoding="utf-8") as file:
        json.dump(summary, file)
    return 1 if summary["failed"] else 0


def total(arguments):
    summaries = []
    for name in arguments.summaries:
        with open(name, encoding="utf-8") as file:
            summaries.append(json.load(file))
    passed, failed, skipped = (
        sum(summary[key] for summary in summaries) for key in ("passed", "failed", "skipped")
    )
    for summary in summaries:
        for name in summary["failures"]:
            print(f"failed: {summary['label']} {name}")
    if passed + failed == 0:
        print("failed: no test ran; the suite or the filter matches none")
        failed = 1
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    for name in ("targets", "run"):
        command = commands.add_parser(name)
        command.add_argument("--build", required=True)
        command.add_argument("--suite", action="append", default=[])
        if name == "run":
            command.add_argument("--summary", required=True)
            command.add_argument("--label", default="")
            command.add_argument("--filter", default="")
            command.add_argument("--wrapper", default="", help="a command put before each test's")
            command.add_argument("--timeout-factor", type=float, default=1.0)
            # One more than the cores of a small machine: tests wait, too.
            command.add_argument("--jobs", type=int, default=3)
    command = commands.add_parser("total")
    command.add_argument("summaries", nargs="+")

    arguments = parser.parse_args()
    if arguments.command == "targets":
        tests = selected_tests(arguments.build, arguments.suite)
        print("\n".join(ninja_targets(arguments.build, tests)))
        return 0
    return run(arguments) if arguments.command == "run" else total(arguments)


if __name__ == "__main__":
    sys.exit(main())
