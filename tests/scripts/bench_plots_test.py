"""What scripts/bench.sh --plots draws. Run by tests/unit/scripts_test.cpp; drawing itself only where matplotlib is."""

import importlib.util
import json
import pathlib
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))
sys.dont_write_bytecode = True

import bench_plots  # noqa: E402


def results():
    return {name: json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text()) for name in ("shm", "network", "gpu")}


class Test(unittest.TestCase):
    def test_publish_has_its_baselines(self):
        rounds = [{"applied_s": a, "memcpy_s": 2.0} for a in (1.0, 2.0, 9.0)]
        rows = [{"dtype": "f32", "workers": 4, "way": way, "bytes": 5e6, "rounds": rounds} for way in ("view", "raw bytes, ipc")]
        self.assertEqual(
            bench_plots.publish_bars({"publish": rows}),
            {"f32, 5 MB": [("4 × view", 1.0, 0.5, 4.5, False), ("4 × raw bytes, ipc", 1.0, 0.5, 4.5, True)]},
        )

    def test_gpu_has_limits_and_the_baseline(self):
        row = {"staging": "host", "activation": "flip", "limit_s": 0.25, "rounds": [{"applied_s": s} for s in (0.5, 0.3, 0.4)]}
        other = {"result": {"rounds": [{"way": "plain", "total_s": 9}, {"way": "pinned", "total_s": 3}, {"way": "pinned", "total_s": 2}]}}
        bars, best = bench_plots.gpu_bars({"sections": {"host_flip": {"result": row}, "baseline": other}})
        self.assertEqual(bars, [("through the host: flip", 400.0, 300.0, 500.0, 250.0)])
        self.assertEqual(best, 2000)
        self.assertEqual(bench_plots.gpu_bars({"sections": {}}), ([], None))

    def test_the_committed_results_can_be_drawn_and_are(self):
        found = results()
        self.assertEqual(len(bench_plots.publish_bars(found["shm"])), 3)
        self.assertEqual([len(times) > 100 for times in bench_plots.hook_times(found["shm"])], [True] * 3)
        self.assertEqual(bench_plots.tcp_bars(found["network"])[0][0], "one plain stream")
        folder = ROOT / "docs" / "plots"
        for name, *_ in bench_plots.PLOTS:
            texts = [element.text for element in xml.parse(folder / f"{name}.svg").iter() if element.tag.endswith("}text")]
            self.assertGreater(len(texts), 5, name)
        # A plot of results that are no longer those of the file shows other numbers.
        numbers = {
            "tcp": [rate for _, rate, _ in bench_plots.tcp_bars(found["network"])],
            "publish": [row[1] for rows in bench_plots.publish_bars(found["shm"]).values() for row in rows],
            "gpu": [row[1] for row in bench_plots.gpu_bars(found["gpu"])[0]],
        }
        for name, values in numbers.items():
            drawn = (folder / f"{name}.svg").read_text()
            for value in values:
                self.assertIn(f">{bench_plots.shown(value)}<", drawn, f"{name}: run scripts/bench.sh --plots")

    @unittest.skipUnless(importlib.util.find_spec("matplotlib"), "no matplotlib here; scripts/bench.sh installs it")
    def test_the_same_results_give_the_same_bytes(self):
        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
            for one, other in zip(bench_plots.draw(results(), pathlib.Path(first)), bench_plots.draw(results(), pathlib.Path(second))):
                self.assertEqual(one.read_bytes(), other.read_bytes())


if __name__ == "__main__":
    unittest.main()
