"""Counts what weightcast adds to and removes from each style of examples/styles, and writes docs/styles.md's table.

  style_lines.py [--write]

A style is two whole programs, plain.cpp and weightcast.cpp. Their sections begin with `// ---- worker` and
`// ---- trainer`; includes and the model come before. A line that is changed counts as one added and one
removed; blank lines and comments of their own do not count.
"""

import argparse
import difflib
import pathlib
import sys

from bench_support import replace_block

ROOT = pathlib.Path(__file__).resolve().parents[2]
STYLES = {
    "value_class": ("optimizer by value in a class that is moved; trainer and replicas in one process", "tuero/muzero-cpp", "shared_weights.hpp"),
    "factory": ("`shared_ptr<Optimizer>` from a factory; a wrapper that is no Module around a `jit::Module`; a normalizer beside it", "NVIDIA/TorchFort", "weight_file.hpp"),
    "muzero": ("no `forward()`, a `clone()` that throws, parameters that alias; self-play", "tuero/muzero-cpp", "weight_file.hpp"),
    "actor_critic": ("actor and critic with an optimizer each; the actor alone, fp32 to bf16", "NVIDIA/TorchFort, amiani/halleytest", "weight_file.hpp"),
}
SECTIONS = ("head", "trainer", "worker")


def lines_that_count(text):
    return [line for line in text.splitlines() if line.strip() and not line.strip().startswith("//")]


def sections(path):
    """@return {section: its lines}"""
    found, name = {"head": []}, "head"
    for line in path.read_text().splitlines():
        if line.startswith("// ---- "):
            name = line.removeprefix("// ---- ").split()[0].rstrip(":")
            if name not in SECTIONS or name in found:
                raise SystemExit(f"{path}: expected one section each of {', '.join(SECTIONS[1:])}, found '{name}' (again)")
            found[name] = []
        found[name].append(line)
    if set(found) != set(SECTIONS):
        raise SystemExit(f"{path}: expected the sections {', '.join(SECTIONS[1:])}, found {', '.join(found)}")
    return {name: lines_that_count("\n".join(lines)) for name, lines in found.items()}


def changed(plain, ours):
    """@return (added, removed) lines"""
    diff = list(difflib.unified_diff(plain, ours, lineterm="", n=0))[2:]
    return sum(line.startswith("+") for line in diff), sum(line.startswith("-") for line in diff)


def count(folder):
    plain, ours = sections(folder / "plain.cpp"), sections(folder / "weightcast.cpp")
    return {name: changed(plain[name], ours[name]) for name in SECTIONS}


def table(root=ROOT):
    styles = root / "examples" / "styles"
    lines = ["| style | met in | include | trainer | worker | no longer needed |", "|---|---|---|---|---|---|"]
    for name, (what, where, transport) in STYLES.items():
        counts = count(styles / name)
        cells = " | ".join("+{} −{}".format(*counts[section]) for section in SECTIONS)
        needless = len(lines_that_count((styles / transport).read_text()))
        lines.append(f"| [{name}](../examples/styles/{name}): {what} | {where} | {cells} | [{transport}](../examples/styles/{transport}), {needless} lines |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(prog="style_lines.py")
    parser.add_argument("--write", action="store_true", help="into docs/styles.md")
    options = parser.parse_args()
    text = table()
    if options.write:
        replace_block(ROOT / "docs" / "styles.md", "lines", text)
    else:
        print(text)


if __name__ == "__main__":
    sys.exit(main())
