"""The tables of what scripts/bench.sh measures over the network."""

import statistics

from bench_support import heading

LANES = {
    "plain_stream": "one plain stream",
    "zeromq": "ZeroMQ alone",
    "zeromq_curve": "ZeroMQ alone, encrypted",
    "lane_verified_open": "lane without encryption (tests only)",
    "lane_verified_open_bucket_digests": "the same, each bucket digested",
    "lane_verified_curve": "lane, encrypted",
    "lane_verified_curve_bucket_digests": "lane, encrypted, each bucket digested: what engines use",
}


def tables(results):
    lines = [heading(results["machine"])]
    for section, table in (("storm", storm_tables), ("tight", tight_tables), ("tcp", tcp_table)):
        if section in results:
            lines += table(results[section])
    return "\n".join(lines)


def storm_tables(storm):
    lines = ["", f"### {storm['joiners']} joiners at once, p2p over tcp, policy of {storm['bytes'] / 1e6:.0f} MB", ""]
    lines += ["| the trainer's step | steps | median | mean | storm / this, median | mean | cores taken by others |", "|---|---|---|---|---|---|---|"]
    change = storm["change"]
    for name, what, suffix in (
        ("control", "no engines", ""),
        ("loaded", "no engines, the joiners' core busy otherwise", "_loaded"),
        ("storm", "storm", None),
    ):
        one = storm["step_ms"][name]
        ratios = "– | –" if suffix is None else f"{1 + change['median' + suffix]:.3f} | {1 + change['mean' + suffix]:.3f}"
        others = f"{one['others']:.2f}" if "others" in one else "–"  # results that were kept may lack it
        lines.append(f"| {what} | {one['steps']} | {one['median']:.2f} ms | {one['mean']:.2f} ms | {ratios} | {others} |")
    lines += ["", "| storm | policies sent by the trainer | greatest | relayed by joiners | limit: each from the trainer | all on the newest | slowest | one encrypted lane, the same policies one after another |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for with_version, what in ((False, "no version meanwhile"), (True, "one more version meanwhile")):
        mine = [one for one in storm["storms"] if one["with_version"] == with_version]
        if not mine:
            continue
        sent = [one["sent_bytes"] / storm["bytes"] for one in mine]
        relayed = [one["relayed_bytes"] / storm["bytes"] for one in mine]
        until = [max(one["newest_s"]) for one in mine]
        count = storm["joiners"] * (1 + with_version)
        # Results that were kept may lack it.
        alone = f"{count * storm['bytes'] / storm['lane']['gb_per_s'] / 1e9:.2f} s" if "lane" in storm else "–"
        lines.append(
            f"| {what} | {statistics.median(sent):.1f} | {max(sent):.1f} | {statistics.median(relayed):.1f} | "
            f"{count} | {statistics.median(until):.2f} s | {max(until):.2f} s | {alone} |"
        )
    return lines


def tight_tables(tight):
    lines = ["", "### A tight fit: serial over tcp", ""]
    if "skipped" in tight:
        return lines + [f"Not measured: it {tight['skipped']}."]
    lane = tight["lane"]["lane_verified_curve_bucket_digests"]["gb_per_s"]
    plain = tight["lane"]["plain_stream"]["gb_per_s"]
    lines += [
        f"{tight['bytes'] / 1e9:.3g} GB in bf16, {tight['slots']} slots. In the same run one lane carried {lane:.2f} GB/s, "
        f"one plain stream over loopback {plain:.2f} GB/s.",
        "",
        "| engines | from publish point to applied by all | first version | GB/s, an engine | GB/s, all | of the lane's rate, all | of the plain stream's |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in tight["rows"]:
        rate = row["bytes"] / row["applied_s"] / 1e9
        every = rate * row["engines"]
        lines.append(
            f"| {row['engines']} | {row['applied_s']:.2f} s | {row['first_s']:.2f} s | {rate:.2f} | {every:.2f} | {every / lane:.2f} | {every / plain:.2f} |"
        )
    lines += ["", "| memory at its peak | measured | announced | beyond it |", "|---|---|---|---|"]
    for row in tight["rows"]:
        image = row["bytes"]
        of = f"{row['engines']} engine{'s' if row['engines'] > 1 else ''}"
        trainer = row["trainer"]
        lines.append(mb_row(f"trainer, {of}: anonymous", trainer["anonymous"], image, "the weights"))
        lines.append(mb_row(f"trainer, {of}: slots", trainer["slots"], trainer["announced_slots"], f"{tight['slots']} slots"))
        lines.append(mb_row(f"engine, greatest of {of}: anonymous", row["engine_anonymous"], row["engine_announced"], "one image and buckets"))
        lines.append(mb_row(f"engine, greatest of {of}: before its first version", row["engine_bare"], None, ""))
        lines.append(mb_row(f"engine, greatest of {of}: slots of the trainer mapped", row["engine_slots"], 0, "none"))
    refused = tight["refused_engine"]
    lines += [
        "",
        f"An engine with `WEIGHTCAST_MEMORY_BUDGET={refused['budget']}` is refused, with {refused['anonymous'] / 1e6:.0f} MB of its own at most:",
        "",
        f"> {refused['why']}",
        "",
        "So is a trainer whose slots do not fit:",
        "",
        f"> {tight['refused_trainer']['why']}",
    ]
    return lines


def mb_row(what, bytes_used, announced, of):
    if announced is None:
        return f"| {what} | {bytes_used / 1e6:.0f} MB | – | – |"
    return f"| {what} | {bytes_used / 1e6:.0f} MB | {announced / 1e6:.0f} MB, {of} | {(bytes_used - announced) / 1e6:+.0f} MB |"


def tcp_table(tcp):
    lines = ["", f"### The tcp lane alone, {tcp['bytes'] / 1e6:.0f} MB over loopback, one thread that places and verifies", ""]
    lines += ["| way | GB/s (median) | of the plain stream | of encrypted ZeroMQ |", "|---|---|---|---|"]
    for name, variant in tcp["variants"].items():
        lines.append(f"| {LANES.get(name, name)} | {variant['gb_per_s']:.2f} | {variant['of_plain_stream']:.2f} | {variant['of_zeromq_curve']:.2f} |")
    return lines
