"""The installed library as strangers meet it. Run by scripts/test.sh, suite packages."""

import argparse
import os
import pathlib
import re
import shutil
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import gtest_report  # noqa: E402
from workshop import (  # noqa: E402
    CONSUMERS,
    SOURCE,
    Installed,
    environment,
    introspect,
    meson,
    ninja,
    run,
    run_consumer,
)

CXX = os.environ.get("CXX", "c++")
ROUND_TRIP = re.compile(r"^weightcast \d+\.\d+\.\d+: version \d+ is applied by 1, weights\[999\] = 0\.5$", re.M)
PRIVATE = re.compile(r"/(zmq|boost|google/protobuf|spdlog|fmt|CLI|toml|torch|ATen|c10|cuda)[^/]*(/|$|\.)")
arguments = argparse.Namespace()  # of the command line


def needs_tool(name):
    return unittest.skipUnless(
        shutil.which(name, path=environment()["PATH"]), f"no {name} here: install its package"
    )


def needs_torch(case):
    def run_case(self):
        if not arguments.torch_dir:
            self.skipTest("this build has no torch: configure it with -Dtorch_dir")
        case(self)

    return run_case


class Packages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = pathlib.Path(tempfile.mkdtemp(prefix="weightcast-packages-"))
        cls.addClassCleanup(shutil.rmtree, cls.scratch)
        cls.version = introspect(arguments.build, "projectinfo")["version"]
        cls.installed = Installed(arguments.build, cls.scratch)
        cls.library = cls.installed.library_folder / f"libweightcast.so.{cls.version}"

    def consumer(self, name):
        """A copy of it, outside the tree."""
        folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{name} of a stranger ", dir=self.scratch))
        shutil.copytree(CONSUMERS / name, folder, dirs_exist_ok=True)
        return folder

    def cmake(self, folder, *options):
        """Configures and builds the consumer in a folder; returns what CMake said."""
        said = run(
            ["cmake", "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja()}", f"-DCMAKE_PREFIX_PATH={self.installed.prefix}"]
            + ["-S", folder, "-B", folder / "build", *options]
        )
        return said + run(["cmake", "--build", folder / "build"])

    def expect_public_headers_alone(self, build):
        """That nothing was compiled in but the consumer, the public headers and the standard library."""
        deps = run([ninja(), "-C", build, "-t", "deps"])
        self.assertIn("weightcast/publisher.hpp", deps)
        self.assertEqual([line for line in deps.splitlines() if PRIVATE.search(line)], [])

    def expect_linked_with_us_alone(self, program):
        needed = re.findall(r"NEEDED.*\[(.*)\]", run(["readelf", "-d", program]))
        self.assertIn(self.soname(), needed)
        strange = [name for name in needed if not re.match(r"lib(weightcast|stdc\+\+|gcc_s|c|m)\.so|ld-linux", name)]
        self.assertEqual(strange, [])

    def soname(self):
        [name] = re.findall(r"SONAME.*\[(.*)\]", run(["readelf", "-d", self.library]))
        return name

    def pkg_config(self, *words):
        return run(["pkg-config", *words], env=self.found_by_pkg_config()).strip()

    def found_by_pkg_config(self):
        return environment(PKG_CONFIG_PATH=self.installed.pkg_config_path)

    def test_installs_what_is_public_and_nothing_else(self):
        place = self.installed
        listed = re.findall(
            r"'(weightcast/.*\.hpp)'",
            (SOURCE / "include/meson.build").read_text() + (SOURCE / "plugin/torch/meson.build").read_text(),
        )
        headers = [str(path.relative_to(place.headers)) for path in place.headers.rglob("*") if path.is_file()]
        self.assertEqual(sorted(headers), sorted(listed))
        links = {path.name: os.readlink(path) for path in place.library_folder.iterdir() if path.is_symlink()}
        self.assertEqual(links, {"libweightcast.so": self.soname(), self.soname(): self.library.name})
        folder = place.library_folder
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
        expected = {*links, self.library.name, "pkgconfig/weightcast.pc", "pkgconfig/weightcast-torch.pc"}
        expected |= {f"cmake/weightcast/weightcast-config{what}.cmake" for what in ("", "-version")}
        self.assertEqual(files, expected)
        self.assertEqual(place.others, [], "outside the prefix")
        for path in place.prefix.rglob("*"):
            if path.suffix in (".pc", ".cmake"):
                self.assertNotIn(str(SOURCE), path.read_text(), path)

    @needs_tool("readelf")
    def test_library_keeps_its_parts_to_itself(self):
        dynamic = run(["readelf", "-d", self.library])
        self.assertNotRegex(dynamic, r"RPATH|RUNPATH")
        self.assertNotRegex(dynamic, r"NEEDED.*(cuda|nvidia|torch|c10|nccl)")
        defined = run(["nm", "-DC", "--defined-only", self.library])
        symbols = [line.split(maxsplit=2)[2] for line in defined.splitlines()]
        self.assertIn("weightcast::library_version()", symbols)
        rooms = "|".join(folder.name for folder in (SOURCE / "src").iterdir() if folder.is_dir())
        ours = re.compile(rf"((vtable|typeinfo|typeinfo name) for )?weightcast::(?!({rooms}|detail)::)")
        self.assertEqual([name for name in symbols if not ours.match(name)], [])

    def test_command_runs_where_it_was_moved_to(self):
        if not self.installed.command.exists():
            self.skipTest("this build has no command: -Dcli")
        said = run([self.installed.command, "--version"])
        self.assertIn(self.version, said)
        share = self.installed.prefix / "share"
        files = {path.relative_to(share).as_posix() for path in share.rglob("*") if path.is_file()}
        self.assertIn("man/man1/weightcast.1", files)
        completions = {
            "bash": "bash-completion/completions/weightcast",
            "zsh": "zsh/site-functions/_weightcast",
            "fish": "fish/vendor_completions.d/weightcast.fish",
        }
        self.assertLessEqual(set(completions.values()), files)
        for shell, file in completions.items():
            self.assertEqual((share / file).read_text(), run([self.installed.command, "completion", shell]))

    @needs_tool("cmake")
    def test_cmake_consumer(self):
        folder = self.consumer("core")
        self.cmake(folder)
        self.assertRegex(run_consumer(folder / "build/round_trip"), ROUND_TRIP)
        self.expect_public_headers_alone(folder / "build")
        self.expect_linked_with_us_alone(folder / "build/round_trip")
        cache = (folder / "build/CMakeCache.txt").read_text()
        self.assertNotRegex(cache, r"(?i)(Torch|CUDA\w*|ZeroMQ|protobuf\w*|Boost)_DIR")

    @needs_tool("cmake")
    def test_cmake_takes_the_versions_that_fit(self):
        major, minor, patch = (int(part) for part in self.version.split("."))
        fits = [f"{major}.{minor}", self.version, f"{self.version} EXACT", f"{major}.{minor}...{major + 1}"]
        fits += ["COMPONENTS torch", "COMPONENTS weightcast torch"]
        misfits = [f"{major}.{minor}.{patch + 1}", f"{major}.{minor + 1}", f"{major + 1}", f"{major}.{minor + 1} EXACT"]
        misfits += [f"{major}.{minor + 1}...{major + 1}", f"0.0.1...<{self.version}", "COMPONENTS python"]
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.scratch))
        asks = "".join(
            f"unset(weightcast_DIR CACHE)\nfind_package(weightcast {what} QUIET)\n"
            f'message("{what}: ${{weightcast_FOUND}}")\n'
            for what in fits + misfits
        )
        begin = "cmake_minimum_required(VERSION 3.19)\nproject(ask LANGUAGES CXX)\n"
        (folder / "CMakeLists.txt").write_text(begin + asks)
        said = run(["cmake", f"-DCMAKE_PREFIX_PATH={self.installed.prefix}", "-S", folder, "-B", folder / "build"])
        found = dict(re.findall(r"^(.*): (1|0|TRUE|FALSE)$", said, re.M))
        self.assertEqual(sorted(found), sorted(fits + misfits), said)
        self.assertEqual([what for what in found if found[what] in ("1", "TRUE")], fits)

    @needs_tool("pkg-config")
    def test_meson_consumer(self):
        folder = self.consumer("core")
        env = self.found_by_pkg_config()
        run([*meson(), "setup", "--wrap-mode", "nofallback", "-Doptimization=0", folder / "build", folder], env=env)
        run([ninja(), "-C", folder / "build"], env=env)
        output = run_consumer(folder / "build/round_trip", LD_LIBRARY_PATH=self.installed.library_folder)
        self.assertRegex(output, ROUND_TRIP)
        self.expect_public_headers_alone(folder / "build")
        self.expect_linked_with_us_alone(folder / "build/round_trip")

    @needs_tool("make")
    @needs_tool("pkg-config")
    def test_makefile_consumer(self):
        self.assertEqual(self.pkg_config("--modversion", "weightcast", "weightcast-torch").split(), [self.version] * 2)
        self.assertEqual(self.pkg_config("--print-requires-private", "weightcast"), "")
        folder = self.consumer("core")
        run(["make", "-C", folder], env=self.found_by_pkg_config())
        output = run_consumer(folder / "round_trip", LD_LIBRARY_PATH=self.installed.library_folder)
        self.assertRegex(output, ROUND_TRIP)

    def configured_with_subproject(self):
        """A consumer that builds the tree along, as a release has it: without git, without optional parts."""
        folder = self.consumer("core")
        ignored = shutil.ignore_patterns(".*", "build", "__pycache__")
        shutil.copytree(SOURCE, folder / "subprojects/weightcast", ignore=ignored)
        options = ["--wrap-mode", "forcefallback", "--buildtype", "plain", "-Dweightcast:cuda=disabled"]
        options.append(f"-Dweightcast:python={sys.executable}")
        # As where only the headers of Boost are installed, which Meson takes for no Boost.
        env = environment(BOOST_ROOT=folder)
        said = run([*meson(), "setup", *options, folder / "build", folder], env=env)
        self.assertRegex(said, r"dependency Boost.* found: .*NO")
        return folder

    def test_subproject_builds_the_library_alone(self):
        build = self.configured_with_subproject() / "build"
        self.assertEqual(introspect(build, "tests"), [])
        targets = introspect(build, "targets")
        self.assertEqual([t["name"] for t in targets if t["type"] == "executable"], ["round_trip"])
        # What depends on where the tree lies: generated code, the paths to it and to the headers.
        objects = run([ninja(), "-C", build, "-t", "targets", "all"])
        chosen = re.findall(r"^(\S*(?:round_trip|weightcast\.pb|wire_decode|base_host)[\w.]*\.o): ", objects, re.M)
        self.assertEqual(len(chosen), 4, chosen)
        run([ninja(), "-C", build, *chosen])

    @unittest.skipUnless(
        os.environ.get("WEIGHTCAST_TEST_RELEASE"),
        "compiles the library once more: WEIGHTCAST_TEST_RELEASE=1 has it run",
    )
    def test_subproject_of_a_release(self):
        folder = self.configured_with_subproject()
        run([ninja(), "-C", folder / "build"])
        self.assertRegex(run_consumer(folder / "build/round_trip"), ROUND_TRIP)
        stage = folder / "stage"
        run([*meson(), "install", "-C", folder / "build", "--no-rebuild", "--quiet", "--destdir", stage])
        self.assertEqual(len(list(stage.rglob("weightcast-config.cmake"))), 1)

    @needs_tool("cmake")
    @needs_torch
    def test_cmake_consumer_of_the_torch_plugin(self):
        folder = self.consumer("torch")
        said = self.cmake(folder, f"-DTORCH_DIR={arguments.torch_dir}")
        self.assertNotIn("warning:", said)
        self.assertIn("weights[7][15] = 0.25\n", run_consumer(folder / "build/publish_tensors"))
        needed = run(["readelf", "-d", folder / "build/publish_tensors"])
        self.assertNotRegex(needed, r"NEEDED.*(cuda|zmq|protobuf)")

    @needs_tool("pkg-config")
    def test_meson_finds_the_torch_plugin(self):
        folder = self.consumer("torch")
        said = run([*meson(), "setup", "-Dtorch_dir=/torch", folder / "build", folder], env=self.found_by_pkg_config())
        self.assertRegex(said, rf"dependency weightcast-torch found: YES {self.version}")

    def test_plugin_without_torch_says_what_to_do(self):
        file = self.scratch / "no_torch.cpp"
        file.write_text("#include <weightcast/torch.hpp>\n")
        said = run([CXX, "-std=c++20", "-fsyntax-only", f"-I{self.installed.headers}", file], expect="failure")
        self.assertIn("needs libtorch, which its user brings", said)

    @needs_tool("dpkg-deb")
    @needs_tool("dpkg-shlibdeps")
    @needs_tool("pkg-config")
    def test_debian_packages(self):
        out = self.scratch / "debs"
        pack = [sys.executable, SOURCE / "scripts/lib/deb.py", "--build", arguments.build, "--out", out]
        debs = [pathlib.Path(line) for line in run(pack).splitlines() if line.endswith(".deb")]
        fields = {deb: self.fields_of(deb) for deb in debs}
        by_name = {field["Package"]: field for field in fields.values()}
        library = "libweightcast" + self.soname().removeprefix("libweightcast.so.")
        self.assertLessEqual({library, "libweightcast-dev"}, set(by_name))
        self.assertRegex(by_name[library]["Depends"], r"libzmq5.*")
        self.assertNotRegex(by_name[library]["Depends"], r"(?i)cuda|nvidia|torch")
        self.assertEqual(by_name["libweightcast-dev"]["Depends"], f"{library} (= {self.version})")
        if self.installed.command.exists():
            self.assertIn(f"{library} (= {self.version})", by_name["weightcast"]["Depends"])

        root = self.scratch / "root"
        for deb in debs:
            run(["dpkg-deb", "-x", deb, root])
        [library_file] = root.rglob(self.library.name)
        env = environment(
            PKG_CONFIG_LIBDIR=library_file.parent / "pkgconfig", PKG_CONFIG_SYSROOT_DIR=root
        )
        self.assertEqual(run(["pkg-config", "--variable=prefix", "weightcast"], env=env).strip(), f"{root}/usr")
        folder = self.consumer("core")
        build = f"{CXX} -std=c++20 round_trip.cpp -o round_trip $(pkg-config --cflags --libs weightcast)"
        run(["bash", "-ec", build + " -L" + str(library_file.parent) + f" -I{root}/usr/include"], env=env, cwd=folder)
        self.assertRegex(run_consumer(folder / "round_trip", LD_LIBRARY_PATH=library_file.parent), ROUND_TRIP)

    def fields_of(self, deb):
        return dict(re.findall(r"^([\w-]+): (.*)$", run(["dpkg-deb", "-f", deb]), re.M))

    def test_document_shows_what_is_built_here(self):
        """Each block of docs/install.md that is marked `from FILE` is in that file, word for word."""
        text = (SOURCE / "docs/install.md").read_text(encoding="utf-8")
        marked = re.findall(r"<!-- from (\S+) -->\n```\w*\n(.*?)```", text, re.S)
        self.assertGreaterEqual(len(marked), 3)
        for file, block in marked:
            self.assertIn(block, (SOURCE / file).read_text(encoding="utf-8"), file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--torch-dir", default="")
    known, sys.argv[1:] = parser.parse_known_args()
    arguments.build, arguments.torch_dir = known.build.resolve(), known.torch_dir
    sys.exit(gtest_report.main(Packages))
