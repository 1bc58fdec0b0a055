"""Runs unittest cases under scripts/lib/run_tests.py, which speaks GoogleTest's language."""

import fnmatch
import json
import sys
import time
import unittest


class Result(unittest.TextTestResult):
    """Also notes what became of each case."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.cases = {}
        self.started = 0.0

    def startTest(self, test):
        super().startTest(test)
        self.started = time.monotonic()
        self.cases[name_of(test)] = {
            "name": name_of(test).split(".")[1],
            "status": "RUN",
            "result": "COMPLETED",
        }

    def stopTest(self, test):
        super().stopTest(test)
        self.cases[name_of(test)]["time"] = f"{time.monotonic() - self.started:.3f}s"

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.note(test, self.failures[-1][1])

    def addError(self, test, error):
        super().addError(test, error)
        self.note(test, self.errors[-1][1])

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.cases[name_of(test)]["result"] = "SKIPPED"

    def note(self, test, text):
        # An error outside a case (in setUpClass) has no case of its own.
        case = self.cases.setdefault(
            name_of(test), {"name": str(test), "status": "RUN", "result": "COMPLETED"}
        )
        case["failures"] = [{"failure": text}]


def name_of(test):
    """Class.case, as GoogleTest would call it."""
    return ".".join(test.id().split(".")[-2:])


def is_wanted(name, pattern):
    """Whether a --gtest_filter lets the case through: POSITIVE:...[-NEGATIVE:...]."""
    positive, _, negative = pattern.partition("-")
    matches = lambda patterns: any(fnmatch.fnmatchcase(name, p) for p in patterns.split(":") if p)
    return matches(positive or "*") and not matches(negative)


def main(case_class):
    """Runs the cases of a class; leaves --gtest_output and --gtest_filter out of sys.argv."""
    given = dict(
        argument[2:].partition("=")[::2] for argument in sys.argv[1:] if argument.startswith("--gtest_")
    )
    sys.argv[1:] = [argument for argument in sys.argv[1:] if not argument.startswith("--gtest_")]
    cases = unittest.defaultTestLoader.loadTestsFromTestCase(case_class)
    chosen = unittest.TestSuite(
        case for case in cases if is_wanted(name_of(case), given.get("gtest_filter", "*"))
    )
    result = unittest.TextTestRunner(sys.stdout, verbosity=2, resultclass=Result).run(chosen)
    output = given.get("gtest_output", "")
    if output.startswith("json:"):
        report = {"testsuites": [{"name": case_class.__name__, "testsuite": list(result.cases.values())}]}
        with open(output[len("json:") :], "w", encoding="utf-8") as file:
            json.dump(report, file)
    return 0 if result.wasSuccessful() else 1
