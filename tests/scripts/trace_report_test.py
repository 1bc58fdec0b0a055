"""What scripts/lib/trace_report.py makes of traces. Run by tests/unit/scripts_test.cpp."""

import contextlib
import io
import json
import pathlib
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))
sys.dont_write_bytecode = True

import trace_report  # noqa: E402


def head(pid, name, clock="one"):
    return [
        {"name": "process_name", "ph": "M", "pid": pid, "tid": 0, "args": {"name": name}},
        {"name": "weightcast", "ph": "M", "pid": pid, "tid": 0, "args": {"clock": clock}},
    ]


def span(pid, track, begin, end, version=1, **args):
    return {
        "name": f"a {track}",
        "cat": track,
        "ph": "X",
        "ts": begin,
        "dur": end - begin,
        "pid": pid,
        "tid": 1,
        "args": dict(args, version=version),
    }


def end(pid, dropped=0):
    return {"name": "trace_end", "ph": "i", "s": "p", "ts": 1.0, "pid": pid, "tid": 0, "args": {"dropped": dropped}}


# One version: captured in 100 us, taken in by two threads that overlap, applied after 400.
TRAINER = head(1, "trainer rank 0") + [
    span(1, "hook", 1000, 1010),
    span(1, "capture", 1010, 1110, bytes=5000),
    span(1, "publish", 1002, 1400),
    end(1),
]
ENGINE = head(2, "engine a") + [
    span(2, "stage", 1100, 1390),
    span(2, "place", 1100, 1250, bytes=3000),
    span(2, "place", 1200, 1350, bytes=2000),
    span(2, "place", 1360, 1380),
    span(2, "switch", 1390, 1395),
    end(2),
]


class TraceReportTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def write(self, name, content):
        path = self.folder / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return str(path)

    def run_tool(self, *arguments):
        """Its exit status, what it printed, and its complaints."""
        out, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            status = trace_report.main([str(argument) for argument in arguments])
        return status, out.getvalue(), errors.getvalue()

    def both(self):
        return self.write("trainer.json", TRAINER), self.write("engine.json", ENGINE)

    def test_overlapping_spans_count_once(self):
        trainer, engine = self.both()
        out = self.folder / "report.json"
        self.assertEqual(self.run_tool(trainer, engine, "--json", out)[0], 0)
        tracks = {(row["process"], row["track"]): row for row in json.loads(out.read_text())["tracks"]}
        place = tracks["engine a", "place"]
        self.assertEqual((place["spans"], place["busy_us"], place["longest_us"]), (3, 270, 150))
        self.assertEqual(place["bytes"], 5000)
        self.assertEqual(tracks["trainer rank 0", "capture"]["busy_us"], 100)

    def test_the_slowest_stage_over_the_time_from_hook_to_applied(self):
        trainer, engine = self.both()
        out = self.folder / "report.json"
        self.run_tool(trainer, engine, "--json", out)
        (row,) = json.loads(out.read_text())["versions"]
        self.assertEqual((row["version"], row["process"], row["track"]), (1, "engine a", "place"))
        self.assertEqual((row["busy_us"], row["wall_us"], row["moving_us"]), (270, 400, 370))
        self.assertAlmostEqual(row["of_wall"], 270 / 400)
        self.assertAlmostEqual(row["of_moving"], 270 / 370)

    def test_spans_that_hold_others_are_no_stages(self):
        path = self.write("a.json", head(1, "engine") + [span(1, "stage", 0, 100), span(1, "wire", 10, 20)])
        out = self.folder / "report.json"
        self.run_tool(path, "--json", out)
        (row,) = json.loads(out.read_text())["versions"]
        self.assertEqual((row["track"], row["busy_us"]), ("wire", 10))

    def test_tables_are_printed(self):
        status, printed, complaints = self.run_tool(*self.both())
        self.assertEqual((status, complaints), (0, ""))
        self.assertRegex(printed, r"engine a +place +3 +0\.270 +0\.150 +0\.0")
        self.assertRegex(printed, r"1 +engine a: place +0\.270 +0\.400 +0\.675 +0\.370 +0\.730")

    def test_joined_traces_are_one_and_keep_processes_apart(self):
        first = self.write("a.json", TRAINER)
        second = self.write("b.json", {"traceEvents": [dict(event, pid=1) for event in ENGINE]})
        joined = self.folder / "joined.json"
        self.assertEqual(self.run_tool(first, second, "--join", joined)[0], 0)
        events = json.loads(joined.read_text())
        self.assertEqual(len(events), len(TRAINER) + len(ENGINE))
        names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
        self.assertEqual(sorted(names.values()), ["engine a", "trainer rank 0"])
        self.assertEqual(self.run_tool(joined)[1], self.run_tool(first, second)[1])

    def test_a_killed_process_leaves_a_trace_that_is_read(self):
        whole = "[\n" + ",\n".join(json.dumps(event) for event in ENGINE[:-1])
        for torn in (whole, whole + ",\n", whole + ',\n{"name":"a pl'):
            path = self.write("killed.json", torn)
            status, printed, complaints = self.run_tool(path)
            self.assertEqual(status, 0, complaints)
            self.assertIn("lacks its end", complaints)
            self.assertRegex(printed, r"engine a +place +3")

    def test_dropped_spans_are_told(self):
        complaints = self.run_tool(self.write("a.json", TRAINER[:-1] + [end(1, dropped=7)]))[2]
        self.assertIn("lacks 7 spans", complaints)

    def test_hosts_with_different_clocks_are_refused(self):
        other = head(2, "engine a", clock="two") + ENGINE[2:]
        status, _, complaints = self.run_tool(self.write("a.json", TRAINER), self.write("b.json", other))
        self.assertEqual(status, 1)
        self.assertIn("different clocks", complaints)

    def test_what_is_no_trace_is_refused_with_what_is_wrong(self):
        for content, word in (
            ("hello", "neither a JSON array"),
            ("{}", "without traceEvents"),
            ('[\n{"name":\n{"name":"a"},\n', "line 2 is no event"),
            ([3], "event 1 has no name"),
            ([{"name": "a", "ph": "Q", "pid": 1}], "of kind 'Q'"),
            ([{"name": "a", "ph": "X"}], "has no pid"),
            ([{"name": "a", "ph": "X", "pid": 1}], "has no time"),
            ([{"name": "a", "ph": "X", "pid": 1, "ts": 1, "dur": -1}], "has no duration"),
            (head(1, "idle"), "no spans"),
        ):
            with self.subTest(word):
                status, _, complaints = self.run_tool(self.write("bad.json", content))
                self.assertEqual(status, 1)
                self.assertIn(word, complaints)
        status, _, complaints = self.run_tool(self.folder / "absent.json")
        self.assertEqual(status, 1)
        self.assertIn("absent.json", complaints)

    def test_versions_can_be_chosen(self):
        events = head(1, "engine") + [span(1, "place", 10 * v, 10 * v + 5, version=v) for v in range(1, 9)]
        events.append(dict(span(1, "fence", 31, 32), args={}))
        path = self.write("a.json", events)
        out = self.folder / "report.json"
        self.run_tool(path, "--versions", "3-4", "--json", out)
        report = json.loads(out.read_text())
        self.assertEqual([row["version"] for row in report["versions"]], [3, 4])
        self.assertEqual({row["track"]: row["spans"] for row in report["tracks"]}, {"fence": 1, "place": 2})
        self.assertIn("of these versions", self.run_tool(path, "--versions", "99")[2])

    def test_the_picture_has_a_row_for_each_track_of_each_process(self):
        name = 'engine <"&>'
        odd = head(3, name) + [span(3, "place", 1100, 1300), span(3, "a track of its own", 1100, 1200)]
        picture = self.folder / "picture.svg"
        trainer, engine = self.both()
        self.assertEqual(self.run_tool(trainer, engine, self.write("odd.json", odd), "--svg", picture)[0], 0)
        texts = [element.text for element in xml.parse(picture).iter() if element.tag.endswith("text")]
        for expected in ("trainer rank 0", "engine a", name, "capture", "a track of its own", "version 1"):
            self.assertIn(expected, texts)
        self.assertEqual(texts.count("place"), 2)

    def test_a_long_trace_makes_a_small_picture(self):
        events = head(1, "engine") + [span(1, "place", i * 10, i * 10 + 9) for i in range(20000)]
        picture = self.folder / "picture.svg"
        self.run_tool(self.write("a.json", events), "--svg", picture)
        self.assertLess(picture.stat().st_size, 100_000)


if __name__ == "__main__":
    unittest.main()
