"""Makes what scripts/gpu.sh runs on a GPU machine: a manifest of a build's programs and, packed, they
themselves with the shared libraries that a bare distribution lacks.

  gpu_pack.py targets  --build DIR              the ninja targets, one a line
  gpu_pack.py manifest --build DIR --root DIR   writes DIR/manifest.json for programs where they were built
  gpu_pack.py pack     --build DIR --root DIR --file FILE

Programs are those of tests/gpu, bench/gpu_*, the examples and what is linked with torch; torch itself
and what comes with it (CUDA's libraries, NCCL) is never packed: programs find it on the GPU machine.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

LIMIT = 50 * 2**20
NAME = "weightcast-gpu"

# Whatever runs a program built with a C++ compiler has these.
SYSTEM = re.compile(r"^(linux-vdso|ld-linux|libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|libresolv|libanl|libutil)[.-]")
# These come with torch, or with the driver.
TORCH = re.compile(r"^(libtorch|libc10|libcud|libnv|libnccl|libcublas|libcufft|libcurand|libcusolver|libcusparse|libgomp)")


def introspect(build, what):
    command = [sys.executable, "-m", "mesonbuild.mesonmain", "introspect", "--" + what, str(build)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def kind_of(path, is_test):
    """What a program is for; None: it is not needed."""
    folder, name = os.path.split(path)
    if folder == "tests/gpu":
        return "test" if is_test else "helper"
    if folder == "tests/torch":
        return "torch test"
    if folder == "bench" and name.startswith("gpu_"):
        return "benchmark"
    if folder.startswith("examples/"):
        return "torch test" if is_test else "example"
    return "command" if name == "weightcast" else None


def programs(build):
    build = os.path.realpath(build)
    tests = {os.path.realpath(test["cmd"][0]) for test in introspect(build, "tests")}
    found = []
    for target in introspect(build, "targets"):
        if target["type"] != "executable":
            continue
        path = os.path.relpath(os.path.realpath(target["filename"][0]), build)
        kind = kind_of(path, os.path.realpath(target["filename"][0]) in tests)
        if kind:
            found.append({"path": path, "kind": kind})
    return sorted(found, key=lambda program: program["path"])


def libraries(program):
    """Name to path (None where the loader does not find it) of the shared libraries that it needs."""
    out = subprocess.run(["ldd", str(program)], check=True, stdout=subprocess.PIPE, text=True).stdout
    needed = {}
    for line in out.splitlines():
        match = re.match(r"\s*(\S+) => (?:(/\S.*?) \(0x|not found)", line)
        if match:
            needed[match[1]] = match[2]
    return needed


def manifest(build, root):
    def git(*arguments):
        result = subprocess.run(["git", "-C", str(root), *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return result.stdout.strip() if result.returncode == 0 else ""

    found = programs(build)
    for program in found:
        needed = libraries(build / program["path"])
        program["torch"] = any(name.startswith(("libtorch", "libc10")) for name in needed)
    options = {option["name"]: option["value"] for option in introspect(build, "buildoptions")}
    return {
        "commit": git("rev-parse", "HEAD") + ("-changed" if git("status", "--porcelain", "--untracked-files=no") else ""),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "options": {name: options[name] for name in ("buildtype", "torch", "cuda", "nccl") if name in options},
        "programs": found,
    }


def licence_of(library):
    """(package, its licence's file) as the distribution has them, or None."""
    for path in (library, os.path.realpath(library)):
        for name in (path, path.removeprefix("/usr")):
            found = subprocess.run(["dpkg-query", "-S", name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            if found.returncode == 0:
                package = found.stdout.split(":")[0]
                text = pathlib.Path("/usr/share/doc") / package / "copyright"
                return (package, text) if text.exists() else None
    return None


def strip(source, to):
    to.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["strip", "--strip-unneeded", "-o", str(to), str(source)], check=True)
    shutil.copymode(source, to)


def pack(build, root, file):
    content = manifest(build, root)
    with tempfile.TemporaryDirectory() as folder:
        top = pathlib.Path(folder) / NAME
        carried = {}
        for program in content["programs"]:
            source = build / program["path"]
            strip(source, top / program["path"])
            for name, path in libraries(source).items():
                if SYSTEM.match(name) or TORCH.match(name):
                    continue
                if path is None:
                    raise SystemExit(f"error: {program['path']} needs {name}, which this machine does not have")
                carried[name] = path
        packages = {}
        for name, path in sorted(carried.items()):
            strip(pathlib.Path(os.path.realpath(path)), top / "lib" / name)
            if os.path.realpath(path).startswith(os.path.realpath(build) + os.sep):
                continue  # weightcast's own
            licence = licence_of(path)
            if licence is None:
                raise SystemExit(f"error: no licence is found for {path}, so it cannot be packed")
            packages[licence[0]] = licence[1]
        for package, text in packages.items():
            to = top / "licences" / package
            to.parent.mkdir(exist_ok=True)
            shutil.copyfile(text, to)
        shutil.copyfile(root / "LICENSE", top / "LICENSE")
        for name in ("scripts/gpu.sh", "bench/ce_baseline.py"):
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, top / name)
        shutil.copytree(root / "scripts/lib", top / "scripts/lib", ignore=shutil.ignore_patterns("__pycache__"))
        content["libraries"] = sorted(carried)
        (top / "manifest.json").write_text(json.dumps(content, indent=1) + "\n")
        with tarfile.open(file, "w:gz", compresslevel=9) as archive:
            archive.add(top, NAME)
    size = os.path.getsize(file)
    if size > LIMIT:
        os.remove(file)
        raise SystemExit(f"error: the archive would have {size} bytes, more than {LIMIT}; leave torch's programs out with --no-torch")
    print(f"packed {len(content['programs'])} programs and {len(carried)} libraries: {file}, {size / 1e6:.1f} MB")


def main():
    parser = argparse.ArgumentParser(prog="gpu_pack.py")
    parser.add_argument("task", choices=("targets", "manifest", "pack"))
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--root", type=pathlib.Path)
    parser.add_argument("--file", type=pathlib.Path)
    options = parser.parse_args()
    if options.task == "targets":
        print("\n".join(program["path"] for program in programs(options.build)))
    elif options.task == "manifest":
        text = json.dumps(manifest(options.build, options.root), indent=1) + "\n"
        (options.build / "manifest.json").write_text(text)
    else:
        pack(options.build, options.root, options.file)


if __name__ == "__main__":
    main()
