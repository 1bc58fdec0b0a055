"""Compares two files of benchmark results, row by row, and says what became slower beyond the noise.

  scripts/bench.sh --compare OLD.json NEW.json [--least SHARE] [--rate SHARE]

Machines differ, so no times are compared but ratios: each round's time over the limit or baseline of the
same round (a memcpy of the same bytes, the loop without weightcast, a plain stream, a bare copy). Two
files agree on a row when their rounds could be draws of one distribution: Mann-Whitney's test, one-sided
for "the new ones are larger", exact where there are no ties. The more rows, the more often one of them
looks slower by chance; Holm's correction keeps the chance of any false alarm in the whole comparison at
`--rate` (5 %). What is significant and yet a smaller change of the median than `--least` (5 %) is no
regression either: two runs of one build differ by some percent, which rounds of one run do not show.

Exits with 1 when a row is a regression, with 2 when a file cannot be compared.
"""

import argparse
import functools
import json
import math
import statistics
import sys

EXACT = 40  # rounds on each side up to which the exact distribution is counted out


# ---- what the files hold: name of a row -> ratios of its rounds, less is better ----------------------


def of_publish(rows):
    for row in rows:
        if row["way"].startswith("raw"):
            continue  # a baseline itself
        workers = f"{row['workers']} worker{'s' if row['workers'] > 1 else ''}"
        yield f"publish: {row['dtype']}, {workers}, {row['way']} / memcpy", [r["applied_s"] / r["memcpy_s"] for r in row["rounds"]]


def of_loop(loop):
    """Steps with and without take turns in blocks: the n-th of both are neighbours."""
    pairs = list(zip(loop["raw"]["with"], loop["raw"]["without"]))
    yield "loop: step / step without", [ours["step_s"] / control["step_s"] for ours, control in pairs]
    yield "loop: fence and hook / step without", [(ours["fence_s"] + ours["hook_s"]) / control["step_s"] for ours, control in pairs]


def of_storm(storm):
    for number in (False, True):
        mine = [r for r, seen in zip(storm["rounds"], storm["storms"]) if seen["with_version"] == number]
        what = "one more version" if number else "no version"
        yield f"storm, {what} meanwhile: median step / step without", [1 + r["median"] for r in mine]


def of_tight(tight):
    if "skipped" in tight:
        return
    lane = tight["lane"]["lane_verified_curve_bucket_digests"]["gb_per_s"]
    for row in tight["rows"]:
        alone = row["bytes"] * row["engines"] / lane / 1e9
        yield f"tight: {row['engines']} x serial over tcp / lane", [r["applied_s"] / alone for r in row["rounds"][1:]]


def of_tcp(tcp):
    plain = tcp["variants"]["plain_stream"]
    for name, variant in tcp["variants"].items():
        if name.startswith("lane"):  # the others are baselines
            # Results of earlier builds have no seconds: a row without samples.
            yield f"tcp: {name} / plain stream", [a / b for a, b in zip(variant.get("seconds", ()), plain.get("seconds", ()))]


def of_gpu(sections):
    """The limit was not measured in turn with the rounds: its median stands for it."""
    for name, section in sections.items():
        result = section.get("result")
        if isinstance(result, dict) and "limit_s" in result and "rounds" in result:
            yield f"gpu: {name} / limit", [r["applied_s"] / result["limit_s"] for r in result["rounds"]]


READERS = {"publish": of_publish, "loop": of_loop, "storm": of_storm, "tight": of_tight, "tcp": of_tcp, "sections": of_gpu}


def rows_of(results):
    """@return {row: ratios} of all sections that are known @raise ValueError where there is none"""
    if not isinstance(results, dict) or not READERS.keys() & results.keys():
        raise ValueError(f"expected an object with one of {', '.join(READERS)}: a file of bench/results/")
    rows = {}
    for name, reader in READERS.items():
        if name not in results:
            continue
        try:
            for row, ratios in reader(results[name]):
                if not all(math.isfinite(r) and r > 0 for r in ratios):
                    raise ValueError(f"'{row}' has a ratio that is not a positive number")
                rows[row] = ratios
        except (KeyError, TypeError, IndexError, AttributeError, ZeroDivisionError) as error:
            raise ValueError(f"section '{name}' is not as scripts/bench.sh writes it ({type(error).__name__}: {error})") from error
    return rows


def disturbed(results):
    """@return how far apart the medians of one memcpy of the same bytes lie in rows of one file (1: equal); a quiet machine stays below 1.25"""
    by_bytes = {}
    for row in results.get("publish", ()):
        by_bytes.setdefault(row["bytes"], []).append(statistics.median(r["memcpy_s"] for r in row["rounds"]))
    return max((max(times) / min(times) for times in by_bytes.values()), default=1.0)


# ---- the test ----------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def orders(n, m):
    """How many of the orders of n and m different values have U pairs in which the first is larger, for each U."""
    counts = [1]
    # The Gaussian binomial coefficient (n + m over n) as a polynomial, a factor at a time.
    for i in range(1, n + 1):
        wide = counts + [0] * (m + i)
        for k in range(len(wide) - 1, m + i - 1, -1):
            wide[k] -= wide[k - m - i]
        for k in range(i, len(wide)):
            wide[k] += wide[k - i]
        counts = wide[: i * m + 1]
    return tuple(counts)


@functools.lru_cache(maxsize=256)
def tails(n, m):
    """P(U >= u) for each u."""
    counts = orders(n, m)
    total, sums, so_far = sum(counts), [0.0] * len(counts), 0
    for u in range(len(counts) - 1, -1, -1):
        so_far += counts[u]
        sums[u] = so_far / total
    return tuple(sums)


def larger(new, old):
    """Mann-Whitney's test. @return the chance that draws of one distribution look as much as this as if `new` were larger"""
    n, m = len(new), len(old)
    ordered = sorted([(value, 1) for value in new] + [(value, 0) for value in old])
    rank_sum, ties, begin = 0.0, 0, 0
    while begin < n + m:
        end = begin
        while end < n + m and ordered[end][0] == ordered[begin][0]:
            end += 1
        equal = end - begin
        rank_sum += (begin + end + 1) / 2 * sum(mine for _, mine in ordered[begin:end])
        ties += equal**3 - equal
        begin = end
    u = rank_sum - n * (n + 1) / 2
    if not ties and max(n, m) <= EXACT:
        return tails(n, m)[round(u)]
    spread = n * m / 12 * (n + m + 1 - ties / ((n + m) * (n + m - 1)))
    return 1.0 if spread <= 0 else statistics.NormalDist().cdf(-(u - n * m / 2 - 0.5) / math.sqrt(spread))


def holm(chances, rate):
    """@return for each of the chances whether it is significant, at most `rate` being false among all that are by chance"""
    significant = [False] * len(chances)
    for rank, index in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        if chances[index] > rate / (len(chances) - rank):
            break
        significant[index] = True
    return significant


def compare(old, new, rate=0.05, least=0.05):
    """@return a dict a row: row, old and new (medians), change, chance, verdict"""
    found, tested = [], []
    for name in [*old, *(name for name in new if name not in old)]:
        before, after = old.get(name), new.get(name)
        row = {"row": name, "old": None, "new": None, "change": None, "chance": None}
        row.update({key: statistics.median(value) for key, value in (("old", before), ("new", after)) if value})
        found.append(row)
        if name not in new:
            row["verdict"] = "missing in NEW"
        elif name not in old:
            row["verdict"] = "only in NEW"
        elif not before or not after:
            row["verdict"] = "no samples in " + " and ".join(which for which, has in (("OLD", before), ("NEW", after)) if not has)
        else:
            row["change"] = row["new"] / row["old"] - 1
            tested.append((row, before, after))
    # Rows so short that even the clearest difference is not significant say nothing, and take nothing from the others.
    telling = tested
    while telling:
        enough = [t for t in telling if 1 / math.comb(len(t[1]) + len(t[2]), len(t[1])) <= rate / len(telling)]
        if len(enough) == len(telling):
            break
        telling = enough
    for row, before, after in tested:
        row["verdict"] = "too few samples to tell"
    for test, verdict in ((lambda a, b: larger(a, b), "REGRESSION"), (lambda a, b: larger(b, a), "faster")):
        chances = [test(after, before) for _, before, after in telling]
        for (row, _, _), chance, is_sure in zip(telling, chances, holm(chances, rate)):
            change = row["change"] if verdict == "REGRESSION" else -row["change"]
            if is_sure and change >= least:
                row["verdict"], row["chance"] = verdict, chance
            elif row["verdict"] == "too few samples to tell":
                row["verdict"], row["chance"] = "within the noise", chance
    return found


# ---- the report --------------------------------------------------------------------------------------


def report(rows, rate, least):
    def number(value, how):
        return "–" if value is None else format(value, how)

    lines = ["| row (ratio, less is better) | old | new | change | chance | |", "|---|---|---|---|---|---|"]
    for r in rows:
        lines.append(
            f"| {r['row']} | {number(r['old'], '.4g')} | {number(r['new'], '.4g')} | {number(r['change'], '+.1%')} | "
            f"{number(r['chance'], '.2g')} | {r['verdict']} |"
        )
    count = lambda verdict: sum(r["verdict"].startswith(verdict) for r in rows)
    lines += [
        "",
        f"{len(rows)} rows: {count('REGRESSION')} slower, {count('faster')} faster, {count('within')} within the noise, "
        f"{count('too few') + count('no samples')} that cannot be told, {count('missing')} missing in NEW, {count('only')} only in NEW "
        f"(false alarms in {rate:.0%} of comparisons at most; changes from {least:.0%}).",
    ]
    return "\n".join(lines)


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            results = json.load(file)
        rows, apart = rows_of(results), disturbed(results)
        if apart > 1.25:
            print(f"bench: warning: {path}: memcpys of the same bytes took up to {apart:.2f} times as long in one row as in another; its machine was busy with other things")
        return rows
    except (OSError, ValueError) as error:
        print(f"bench: {path}: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def share(text):
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to below 1 (0.05 is 5 %), got {text}")
    return value


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="bench.sh --compare", description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("old", metavar="OLD.json")
    parser.add_argument("new", metavar="NEW.json")
    parser.add_argument("--rate", type=share, default=0.05, help="chance of a false alarm in the whole comparison (default 0.05)")
    parser.add_argument("--least", type=share, default=0.05, help="smaller changes of a row's median are no regression (default 0.05)")
    options = parser.parse_args(arguments)
    rows = compare(read(options.old), read(options.new), options.rate, options.least)
    print(report(rows, options.rate, options.least))
    return 1 if any(row["verdict"] == "REGRESSION" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
