"""Where consumers are built and run: an environment without a CUDA toolkit, and folders with spaces."""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(__file__).resolve().parents[2]
CONSUMERS = SOURCE / "tests" / "packages" / "consumers"
PATIENCE_S = 1500  # for one command; only a failure takes so long


def environment(**more):
    """This process's, with the build's tools, and without CUDA and settings of weightcast or pkg-config."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CUDA", "WEIGHTCAST_", "PKG_CONFIG", "CMAKE", "Torch"))
        and name not in ("LD_LIBRARY_PATH", "DESTDIR", "CXXFLAGS", "CPPFLAGS", "LDFLAGS")
    }
    folders = [os.path.dirname(sys.executable)] + os.environ.get("PATH", "").split(os.pathsep)
    kept["PATH"] = os.pathsep.join(
        folder for folder in folders if folder and not os.path.exists(os.path.join(folder, "nvcc"))
    )
    kept.update({name: str(value) for name, value in more.items()})
    return kept


def run(command, env=None, cwd=None, expect=0):
    """What the command printed. Raises, with all of it, where the exit status is another one."""
    done = subprocess.run(
        [str(word) for word in command],
        env=env or environment(),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=PATIENCE_S,
        check=False,
    )
    is_as_expected = done.returncode == 0 if expect == 0 else done.returncode != 0
    if not is_as_expected:
        words = " ".join(str(word) for word in command)
        raise AssertionError(f"{words}\nexit status {done.returncode}:\n{done.stdout}")
    return done.stdout


def meson():
    """The Meson of this Python, else the one in PATH."""
    if importlib.util.find_spec("mesonbuild"):
        return [sys.executable, "-m", "mesonbuild.mesonmain"]
    return ["meson"]


def ninja():
    return shutil.which("ninja", path=environment()["PATH"]) or "ninja"


def introspect(build, what):
    return json.loads(run([*meson(), "introspect", "--" + what, build]))


def run_consumer(program, **more):
    """Runs it as a job of its own; returns what it printed."""
    with tempfile.TemporaryDirectory(prefix="wc-") as place:
        job = f"packages-{os.getpid()}"
        output = run(
            [program],
            env=environment(WEIGHTCAST_JOB=job, WEIGHTCAST_DIRECTORY=place, OMP_NUM_THREADS=1, **more),
        )
        left = [name for name in os.listdir("/dev/shm") if job in name]
        if left:
            raise AssertionError(f"left in /dev/shm: {left}")
        return output


class Installed:
    """The build's installation, staged by DESTDIR and then moved to a folder with spaces."""

    def __init__(self, build, scratch):
        options = {option["name"]: option["value"] for option in introspect(build, "buildoptions")}
        stage = scratch / "stage of it"
        run([*meson(), "install", "-C", build, "--no-rebuild", "--quiet", "--destdir", stage])
        staged = stage / options["prefix"].lstrip("/")
        self.prefix = scratch / "moved to here"
        staged.rename(self.prefix)
        self.others = [path for path in stage.rglob("*") if not path.is_dir()]
        shutil.rmtree(stage)
        self.library_folder = self.prefix / options["libdir"]
        self.headers = self.prefix / options["includedir"]
        self.command = self.prefix / options["bindir"] / "weightcast"
        self.pkg_config_path = self.library_folder / "pkgconfig"
