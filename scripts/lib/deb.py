"""Packs an installed build as Debian packages.

  deb.py --build DIR --out DIR [--maintainer 'NAME <ADDRESS>']

Three packages: the library, named after its soname; -dev with headers and what finds them; and the
command. Depends of the first two kinds come from dpkg-shlibdeps, so they fit the distribution that
this runs on. Needs dpkg-dev. Prints the files that it wrote.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

SUMMARY = "keeps RL rollout workers on the trainer's latest policy"
ABOUT = {
    "library": (
        f"{SUMMARY} (library)",
        "A plugin for trainers of reinforcement learning. A hook in the optimizer's step copies the\n"
        " policy's tensors into shared memory, and each version reaches all rollout workers whole.",
    ),
    "dev": (
        f"{SUMMARY} (headers)",
        "Headers, the header-only libtorch plugin, pkg-config and CMake package files. Torch itself is\n"
        " needed by users of the plugin alone, who bring it themselves.",
    ),
    "command": (f"{SUMMARY} (command)", "The weightcast command: makes keys and looks after jobs."),
}


def run(command, cwd=None):
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, stdout=subprocess.PIPE, encoding="utf-8", check=False
    )
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command))} ended with {done.returncode}; its message is above")
    return done.stdout


def meson():
    if importlib.util.find_spec("mesonbuild"):
        return [sys.executable, "-m", "mesonbuild.mesonmain"]
    if shutil.which("meson"):
        return ["meson"]
    sys.exit(f"error: neither {sys.executable} nor PATH has Meson; run scripts/package.sh, which brings one")


def introspect(build, what):
    return json.loads(run([*meson(), "introspect", "--" + what, build]))


def stage(build, options, folder):
    """Installs without rebuilding; then everything of the prefix is below folder/usr."""
    whole = folder / "whole"
    run([*meson(), "install", "-C", build, "--no-rebuild", "--quiet", "--strip", "--destdir", whole])
    (whole / options["prefix"].lstrip("/")).rename(folder / "usr")
    shutil.rmtree(whole, ignore_errors=True)
    for file in (folder / "usr").rglob("*.pc"):
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r"(?m)^prefix=.*$", "prefix=/usr", text), encoding="utf-8")
    zsh = folder / "usr/share/zsh"
    if zsh.is_dir():
        (zsh / "site-functions").rename(zsh / "vendor-completions")  # where Debian's zsh looks
    for file in list((folder / "usr/share/man").rglob("*.[1-9]")):
        run(["gzip", "-9n", file])


def move(source, target, kind):
    """Moves what `kind` accepts (relative paths), keeping links."""
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if (path.is_symlink() or path.is_file()) and kind(str(relative)):
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            path.rename(target / relative)


def needs(tree, binaries, shlibs, work):
    """What dpkg-shlibdeps says of the binaries, as the value of Depends."""
    (work / "debian").mkdir(exist_ok=True)
    (work / "debian" / "control").write_text("Source: weightcast\n\nPackage: any\nArchitecture: any\n")
    if shlibs:
        (work / "debian" / "shlibs.local").write_text(shlibs)
    said = run(["dpkg-shlibdeps", "-O", f"-l{tree}", *binaries], cwd=work)
    return said.strip().partition("=")[2]


def pack(tree, fields, about, out, licence):
    name = fields["Package"]
    folder = tree / "usr/share/doc" / name
    folder.mkdir(parents=True)
    shutil.copy(licence, folder / "copyright")
    for path in [tree, *tree.rglob("*")]:
        if path.is_symlink():
            continue
        executable = path.is_dir() or "/bin/" in str(path)
        path.chmod(0o755 if executable else 0o644)
    size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    fields = dict(fields, **{"Installed-Size": str(size // 1024 + 1)})
    control = "".join(f"{key}: {value}\n" for key, value in fields.items() if value)
    (tree / "DEBIAN" / "control").write_text(f"{control}Description: {about[0]}\n {about[1]}\n")
    if fields["Section"] == "libs":
        (tree / "DEBIAN" / "triggers").write_text("activate-noawait ldconfig\n")
        (tree / "DEBIAN" / "shlibs").write_text(fields_shlibs(fields))
    file = out / f"{name}_{fields['Version']}_{fields['Architecture']}.deb"
    run(["dpkg-deb", "--root-owner-group", "--build", tree, file])
    return file


def fields_shlibs(fields):
    """Which package a program needs that is linked with the library."""
    abi = fields["Package"].removeprefix("libweightcast")
    return f"libweightcast {abi} {fields['Package']} (>= {fields['Version']})\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--maintainer", default="The weightcast authors <weightcast@localhost>")
    arguments = parser.parse_args()
    for tool in ("dpkg-deb", "dpkg-shlibdeps"):
        if not shutil.which(tool):
            sys.exit(f"error: no {tool}: install dpkg-dev")

    options = {option["name"]: option["value"] for option in introspect(arguments.build, "buildoptions")}
    version = introspect(arguments.build, "projectinfo")["version"]
    architecture = run(["dpkg", "--print-architecture"]).strip()
    licence = pathlib.Path(__file__).resolve().parents[2] / "LICENSE"
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.umask(0o022)

    with tempfile.TemporaryDirectory(prefix="weightcast-deb-") as scratch:
        scratch = pathlib.Path(scratch)
        stage(arguments.build, options, scratch)
        [soname] = {path.name for path in (scratch / "usr").rglob("libweightcast.so.*") if path.is_symlink()}
        abi = soname.removeprefix("libweightcast.so.")
        library, dev, command = f"libweightcast{abi}", "libweightcast-dev", "weightcast"
        trees = {name: scratch / name for name in (library, dev, command)}
        for tree in trees.values():
            (tree / "DEBIAN").mkdir(parents=True)
        usr = lambda name: trees[name] / "usr"
        move(scratch / "usr", usr(library), lambda path: "/libweightcast.so." in path)
        move(scratch / "usr", usr(command), lambda path: path.startswith(("bin/", "share/")))
        move(scratch / "usr", usr(dev), lambda path: True)

        common = {
            "Source": "weightcast",
            "Version": version,
            "Architecture": architecture,
            "Maintainer": arguments.maintainer,
            "Priority": "optional",
        }
        libraries = usr(library) / options["libdir"]
        same = f"{library} (= {version})"
        plans = {
            library: ("libs", "library", needs(libraries, [libraries / f"libweightcast.so.{version}"], "", scratch)),
            dev: ("libdevel", "dev", same),
        }
        if usr(command).exists():
            shlibs = f"libweightcast {abi} {same}\n"
            binaries = sorted((usr(command) / options["bindir"]).iterdir())
            plans[command] = ("utils", "command", needs(libraries, binaries, shlibs, scratch))
        for name, (section, about, depends) in plans.items():
            fields = {"Package": name, **common, "Section": section, "Depends": depends}
            if name != command:
                fields["Multi-Arch"] = "same"
            print(pack(trees[name], fields, ABOUT[about], out, licence))


if __name__ == "__main__":
    main()
