"""Runs the sections of scripts/bench.sh; writes bench/results/*.json and the tables of docs/benchmarks.md.

Every time is given beside a limit or a baseline of the same run: a single-thread memcpy of the same
bytes, the same loop without weightcast, or the same bytes over a plain socket.
"""

import argparse
import json
import pathlib

import bench_network
import bench_network_tables
import bench_shm
from bench_support import machine, replace_block

# A group's results are one file and one block of the page.
GROUPS = (
    ("shm", "measured", bench_shm.SECTIONS, bench_shm.SharedMemory, bench_shm.tables),
    ("network", "measured over the network", bench_network.SECTIONS, bench_network.Network, bench_network_tables.tables),
)


def main():
    every = [section for _, _, sections, _, _ in GROUPS for section in sections]
    parser = argparse.ArgumentParser(prog="bench.sh")
    parser.add_argument("--build", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--only", metavar="NAMES", help=f"of {','.join(every)}; the other results stay as they were")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller policies; writes nothing into the tree")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else every
    for name in wanted:
        if name not in every:
            parser.error(f"--only: {name} is none of {', '.join(every)}")

    folder = options.root / "bench" / "results"
    for name, block, sections, group, tables in GROUPS:
        mine = [section for section in sections if section in wanted]
        if not mine:
            continue
        kept = folder / f"{name}.json"
        results = json.loads(kept.read_text()) if kept.exists() and not options.quick else {}
        results["machine"] = machine()
        bench = group(options)
        for section in mine:
            print(f"{section}:", flush=True)
            results[section] = getattr(bench, section)()
        text = tables(results)
        print("\n" + text + "\n", flush=True)
        if options.quick:
            continue
        folder.mkdir(exist_ok=True)
        kept.write_text(json.dumps(results, indent=1) + "\n")
        replace_block(options.root / "docs" / "benchmarks.md", block, text)


if __name__ == "__main__":
    main()
