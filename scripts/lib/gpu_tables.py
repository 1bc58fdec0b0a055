"""Puts results of scripts/gpu.sh into bench/results/gpu.json and the tables of docs/benchmarks-gpu.md.

Each section has the machine, date and command of its own run: those of one run share them.
"""

import argparse
import json
import pathlib

from bench_support import replace_block

LARGE = ("host_flip", "host_staged", "host_serial", "ipc_flip", "ipc_staged", "ipc_serial")
MIB = 2**20


def table(head, rows):
    if not rows:
        return []
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows] + [""]


def about(section):
    machine = section["machine"]
    devices = machine["devices"]
    name = f"{len(devices)} x {devices[0]['name']}, driver {devices[0]['driver_version']}" if devices else "no GPU"
    return f"{section['date']}, {name}, {machine['cores']} cores, {machine['system']}, `{section['command']}`"


def ran(sections, names):
    return {name: sections[name]["result"] for name in names if name in sections and sections[name].get("result")}


def note_baseline(sections):
    """Into the rows of one run, checkpoint-engine's best in the same run."""
    baseline = ran(sections, ["baseline"]).get("baseline")
    best = min((row["total_s"] for row in baseline["rounds"] if row["way"] == "pinned"), default=None) if baseline else None
    for name, row in ran(sections, LARGE).items():
        if best and sections[name]["run"] == sections["baseline"]["run"]:
            row["baseline_s"] = best


def speed(sections):
    found = ran(sections, LARGE)
    lines = ["### From the end of a step to applied, verified by digest", ""]
    baseline = ran(sections, ["baseline"]).get("baseline")
    rows = []
    for row in found.values():
        rows.append(
            [
                f"{row['bytes'] / 1e9:.2f} GB",
                "through the host" if row["staging"] == "host" else "on the device",
                f"{row['activation']}, {row['transport']}",
                f"{1e3 * row['applied_s']:.1f}",
                f"{1e3 * row['applied_p90_s']:.1f}",
                f"{1e3 * row['limit_s']:.1f}",
                f"{row['over_limit']:.2f}",
                f"{row['baseline_s'] / row['applied_s']:.1f}" if "baseline_s" in row else "–",
            ]
        )
    lines += table(["policy", "staging", "way", "ms (median)", "p90", "limit, ms", "this / limit", "checkpoint-engine / this"], rows)
    if baseline:
        fast = min((row for row in baseline["rounds"] if row["way"] == "pinned"), key=lambda row: row["total_s"])
        plain = next((row for row in baseline["rounds"] if row["way"] == "plain"), None)
        lines += [
            f"checkpoint-engine {baseline['version']} on the same weights: {fast['total_s']:.3f} s at its best (copy {fast['d2h_s']:.2f}, register "
            f"{fast['register_s']:.2f}, gather {fast['gather_s']:.2f}, update {fast['update_s']:.2f})"
            + (f"; {plain['total_s']:.1f} s the plain way." if plain else "."),
            "",
        ]
    return lines if rows or baseline else []


def costs(sections):
    found = ran(sections, LARGE)
    rows = []
    for row in found.values():
        memory, pause = row["memory"], row["pause"]
        rows.append(
            [
                "through the host" if row["staging"] == "host" else "on the device",
                row["activation"],
                f"{memory['beyond_weights'] / MIB:.0f}",
                f"{memory['device_slots'] / MIB:.0f}",
                f"{memory['host_slots'] / MIB:.0f}",
                f"{row['grown_device_bytes'] / MIB:.1f}",
                *(f"{pause[when]['gap_us'].get('max', 0) / 1e3:.2f}" if when in pause else "–" for when in ("busy", "stepping", "quiet")),
            ]
        )
    if not rows:
        return []
    head = ["staging", "activation", "device memory beyond the weights, MiB", "of it slots", "slots in host memory, MiB", "grown over 12 versions, MiB", "longest gap between decode steps, ms", "while the trainer steps without publishing", "while it does nothing"]
    return ["### What the activations cost: memory and pause", ""] + table(head, rows)


def stall(sections):
    rows = []
    for row in ran(sections, LARGE).values():
        if "loop" not in row:
            continue
        loop = row["loop"]
        rows.append(
            [
                "through the host" if row["staging"] == "host" else "on the device",
                f"{loop['without_ms']:.1f}",
                f"{loop['with_ms']:.1f}",
                f"{100 * loop['slower']:+.2f}%",
                f"{loop['captured']} of {loop['steps']}",
                f"{loop['hook_us']['p50'] / 1e3:.2f} / {loop['hook_us']['max'] / 1e3:.2f}",
                f"{loop['fence_us']['max'] / 1e3:.2f}",
                f"{loop['stream_hook_us']['max'] / 1e3:.2f}",
                f"{loop['stream_fence_us']['max'] / 1e3:.2f}",
            ]
        )
    if not rows:
        return []
    head = ["staging", "step without, ms", "with", "slower", "captured", "host in the hook, ms (median / longest)", "host in the fence", "stream in the hook", "stream in the fence"]
    return ["### What the trainer pays, publishing at every step", ""] + table(head, rows)


def limits(sections):
    found = ran(sections, ["limits"]).get("limits")
    if not found:
        return []
    median = found["median"]
    rows = [
        ["device to registered shared memory", f"{1e3 * median['d2h_s']:.1f}"],
        ["registered shared memory to device", f"{1e3 * median['h2d_s']:.1f}"],
        [f"both, overlapped between two processes (buckets of {median['overlap_bucket_mib']} MiB)", f"{1e3 * median['overlap_s']:.1f}"],
        ["within the device", f"{1e3 * median['d2d_s']:.2f}"],
        ["within the device, between two processes over IPC", f"{1e3 * median['ipc_s']:.2f}"],
    ]
    return [f"### What the machine allows: bare copies of {found['bytes'] / 1e9:.2f} GB", ""] + table(["copy", "ms"], rows)


def outcome(row, text):
    return f"not run: {row['not_run']}" if "not_run" in row else f"FAILED: {row['failed']}" if isinstance(row.get("failed"), str) and row["failed"] else text(row)


def correctness(sections):
    rows = []
    for transport in ("shm", "cuda_ipc", "nccl", "leaders", "leaders_several"):
        known = {}  # of a combination that was in a short and in a long run, the long one, but no failure is hidden
        for name in (f"check_{transport}", f"long_{transport}"):
            for row in sections.get(name, {}).get("result") or []:
                key = row["mode"], row["ranks"], row["engines"]
                if not known.get(key, {}).get("failed"):
                    known[key] = row
        for _, row in sorted(known.items()):
            def text(row):
                grown = row["growth"]
                worst = {what: max(its[what] for its in grown["processes"].values()) for what in ("host_bytes", "descriptors", "threads")}
                return (
                    f"{row['versions']} equal, {row['storm']['compared']} more in a storm; grown: device {grown['device_bytes'] / MIB:.1f} MiB, "
                    f"a process at most {worst['host_bytes'] / MIB:.1f} MiB, {worst['descriptors']} descriptors, {worst['threads']} threads"
                )

            rows.append([row["transport"], row["mode"], row["ranks"], row["engines"], outcome(row, text)])
    if not rows:
        return []
    return ["### Versions equal on all, 100 MB", ""] + table(["transport", "mode", "trainer ranks", "engines", "versions"], rows)


def faults(sections):
    rows = []
    for name in ("faults_shm", "faults_cuda_ipc", "faults_nccl", "faults_several", "faults_leaders", "faults_leaders_several"):
        result = sections.get(name, {}).get("result")
        for row in result["rows"] if result else []:
            where = f"{row['transport']}, {row['gpus']} GPUs" if "gpus" in row else row["transport"]
            rows.append([where, row["mode"], row["fault"], outcome(row, lambda row: f"{row['seconds']:.2f} s")])
    for row in sections.get("tight", {}).get("result") or []:
        rows.append(["shm", "broadcast", f"too little device memory for a second copy, asked for {row['asked']}", outcome(row, lambda row: row["activation_reason"] if row["applied"] else row["last_failure"])])
    if not rows:
        return []
    return ["### Faults: until the survivors serve the next version", ""] + table(["transport", "mode", "what happens", "outcome"], rows)


def several(sections):
    section = sections.get("several")
    if not section:
        return []
    rows = [
        [
            row["devices"],
            row["transport"],
            outcome(row, lambda row: f"{1e3 * row['applied_s']:.1f} ms, by {row['used']}"),
            *(f"{row['pause'][when]['gap_us']['max'] / 1e3:.2f}" if "pause" in row else "–" for when in ("busy", "quiet")),
        ]
        for row in section.get("result") or []
    ] or [["2, 4, 8", "–", f"not run: {section.get('why', '')}", "–", "–"]]
    most = max((row["devices"] for row in section.get("result") or []), default=8)
    rows += [[devices, "all", f"not run: the machine had {most} GPUs", "–", "–"] for devices in (4, 8) if devices > most]
    return ["### Several GPUs: until the last engine has applied", ""] + table(["GPUs", "transport", "applied", "longest gap between decode steps, ms", "without publishing"], rows)


def tested(sections):
    rows = []
    for row in sections.get("tests", {}).get("result") or []:
        rows.append([row["program"], "–", outcome(row, lambda row: f"{row['passed']} passed, {row['skipped']} skipped")])
    for row in sections.get("sanitize", {}).get("result") or []:
        rows.append([row["program"], row["tool"], outcome(row, lambda row: f"{row['passed']} passed; {row['summary']}")])
    return (["### Tests and compute-sanitizer", ""] + table(["program", "under", "outcome"], rows)) if rows else []


def runs(sections):
    """Which section came from which run."""
    by = {}
    for name, section in sections.items():
        by.setdefault(f"{section['run'][11:16]} UTC, " + about(section) + f", commit {section['commit'][:12]}", []).append(name)
    lines = [f"- {where}: {', '.join(names)}" for where, names in by.items()]
    missing = [f"- {name}: not run: {its['why']}" for name, its in sections.items() if its["state"] == "not run"]
    failed = [f"- {name}: {its['state']}: {its['why']}" for name, its in sections.items() if its["state"] in ("failed", "cut off")]
    return lines + missing + failed + [""]


def page(results):
    sections = results["sections"]
    lines = runs(sections)
    for part in (limits, speed, costs, stall, correctness, faults, several, tested):
        lines += part(sections)
    return "\n".join(lines).rstrip() + "\n"


def main():
    parser = argparse.ArgumentParser(prog="gpu.sh --merge")
    parser.add_argument("--root", type=pathlib.Path, required=True)
    parser.add_argument("--results", type=pathlib.Path, required=True)
    options = parser.parse_args()
    new = json.loads((options.results / "gpu.json").read_text())["sections"]
    note_baseline(new)
    kept = options.root / "bench" / "results" / "gpu.json"
    results = json.loads(kept.read_text()) if kept.exists() else {"sections": {}}
    note_baseline(results["sections"])
    for name, section in new.items():
        # What was measured before is not lost to a run that lacked the time.
        if section["state"] in ("ran", "failed") or name not in results["sections"]:
            results["sections"][name] = section
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(results, indent=1) + "\n")
    replace_block(options.root / "docs" / "benchmarks-gpu.md", "measured on a GPU", page(results))
    print(f"{len(new)} sections put into {kept} and docs/benchmarks-gpu.md")


if __name__ == "__main__":
    main()
