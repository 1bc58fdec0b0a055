"""Tests of what scripts/lib/gpu_*.py make of programs' words and of results."""

import pathlib
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts" / "lib"))

import gpu_pack
import gpu_run
import gpu_tables

OUTPUT = """[       OK ] A.One (3 ms)
x.cpp:3: Skipped
no device
[  SKIPPED ] A.Two (0 ms)
[  FAILED  ] A.Three (1 ms)
[  FAILED  ] A.Three
"""


def section(**its):
    machine = {"devices": [], "cores": 2, "system": "some system"}
    return dict({"run": "2026-01-01T10:00:00+00:00", "date": "2026-01-01", "machine": machine, "command": "scripts/gpu.sh", "commit": "0" * 40}, **its)


class GpuScripts(unittest.TestCase):
    def test_counts_cases_and_keeps_reasons(self):
        counts = gpu_run.counts_of(OUTPUT)
        self.assertEqual((counts["passed"], counts["skipped"], counts["failed_cases"]), (1, 1, ["A.Three"]))
        self.assertEqual(counts["skip_reasons"], ["no device"])

    def test_a_failed_row_is_a_failure_and_a_count_is_none(self):
        self.assertTrue(gpu_run.has_failure({"rows": [{"failed": "other bytes"}]}))
        self.assertFalse(gpu_run.has_failure([{"engines_are": [{"failed": 3}]}]))

    def test_packs_libraries_but_neither_the_systems_nor_torchs(self):
        for name in ("libc.so.6", "libstdc++.so.6", "libm.so.6", "ld-linux-x86-64.so.2"):
            self.assertTrue(gpu_pack.SYSTEM.match(name), name)
        for name in ("libcom_err.so.2", "libzmq.so.5", "libmd.so.0"):
            self.assertFalse(gpu_pack.SYSTEM.match(name) or gpu_pack.TORCH.match(name), name)
        for name in ("libtorch_cpu.so", "libc10.so", "libcudart.so.13"):
            self.assertTrue(gpu_pack.TORCH.match(name), name)

    def test_says_on_the_page_what_failed_and_what_did_not_run(self):
        row = {"transport": "nccl", "mode": "p2p", "ranks": 1, "engines": 2}
        page = gpu_tables.page(
            {
                "sections": {
                    "several": section(state="not run", why="it takes at least 2"),
                    "check_nccl": section(state="failed", why="see its rows", result=[dict(row, failed="other bytes"), dict(row, engines=4, not_run="no library")]),
                    "long_nccl": section(state="ran", result=[dict(row, not_run="no time"), dict(row, engines=4, not_run="no time")]),
                }
            }
        )
        self.assertIn("| nccl | p2p | 1 | 2 | FAILED: other bytes |", page)
        self.assertIn("| nccl | p2p | 1 | 4 | not run: no time |", page)
        self.assertIn("| 2, 4, 8 | – | not run: it takes at least 2 |", page)

    def test_a_ratio_is_to_the_baseline_of_the_same_run(self):
        def row():
            gaps = {"gap_us": {"max": 1000.0}}
            memory = {"beyond_weights": 0, "device_slots": 0, "host_slots": 0}
            return {
                "bytes": 2, "staging": "device", "activation": "flip", "transport": "cuda_ipc", "applied_s": 0.5, "applied_p90_s": 0.5,
                "limit_s": 0.1, "over_limit": 5.0, "memory": memory, "grown_device_bytes": 0, "pause": {"busy": gaps, "quiet": gaps},
            }  # fmt: skip

        step = {"way": "pinned", "total_s": 2.0, "d2h_s": 0.5, "register_s": 0.5, "gather_s": 0.5, "update_s": 0.5}
        sections = {
            "baseline": section(state="ran", result={"version": "0", "rounds": [step]}),
            "ipc_flip": section(state="ran", result=row()),
            "ipc_staged": section(state="ran", run="2026-01-02T10:00:00+00:00", result=row()),
        }
        gpu_tables.note_baseline(sections)
        page = gpu_tables.page({"sections": sections})
        self.assertIn("| 5.00 | 4.0 |", page)
        self.assertIn("| 5.00 | – |", page)


if __name__ == "__main__":
    unittest.main()
