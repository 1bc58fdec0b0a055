"""Every fenced block, link and error text of the documents. Run by scripts/test.sh, suite packages."""

import argparse
import json
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
import snippets  # noqa: E402
import texts  # noqa: E402
from workshop import SOURCE, Installed, environment, run  # noqa: E402

arguments = argparse.Namespace()  # of the command line

# Kinds that are only looked at; the others have a test of their own below.
EXCERPTS = ("cmake", "meson", "make", "diff")
KINDS = (*EXCERPTS, "bash", "cpp", "json", "promql", "text", "toml", "yaml")
# Blocks without a kind.
BARE = {"docs/architecture.md": "a drawing"}

# Command lines in documents that no test types, and why. Each begins a line, continued ones joined.
LEFT_OUT = {
    r"scripts/(demo|test|grpo|bench|gpu)\.sh\b": "takes minutes; .ci/run and the tests of scripts/ run these",
    r"scripts/package\.sh\b": "Packages.test_debian_packages makes and unpacks them",
    r"WEIGHTCAST_SIM_SEEDS=": "another way of scripts/test.sh",
    r"sudo ": "changes the system; scripts/lib/setup.sh installs the same packages",
    r"meson (setup|compile)\b": "the build that these tests belong to",
    r"ninja -C build/mine\b": "the build that these tests belong to",
    r"python3 -m venv\b": "with pip below",
    r"\S*pip install\b": "needs the network; scripts/lib/setup.sh installs the same torch",
    r"export TORCH_DIR=": "test_first_steps sets it to the torch of this build",
    r"cmake (-S|--build)\b|build/(worker|trainer)\b|wait$": "test_first_steps types it",
    r"(ninja -C build |build/)examples/styles/": "the suite torch builds and runs all four",
    r"torchrun\b": "scripts/demo.sh starts its ranks so; it needs a program of the reader's",
    r"docker run\b|kubectl\b": "needs a container engine or a cluster",
    r"build/test/tests/fault/fault_matrix\b": "the suite fault runs it",
    r"python3 scripts/lib/trace_report\.py\b": "tests/scripts/trace_report_test.py runs it on traces of its own",
}


def commands_of(text):
    """The command lines of a block, continued ones joined, without comments."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = (re.sub(r"(^|\s)#.*$", "", line).rstrip() for line in joined.splitlines())
    return [line for line in lines if line.strip()]


def reason_to_leave_out(command):
    return next((pattern for pattern in LEFT_OUT if re.match(pattern, command)), None)


def parts_of_excerpt(block):
    """The lines of an excerpt in runs, without indentation; a line with ... alone stands for others."""
    runs, end = [[]], re.compile(r"^(//|#)?\s*\.\.\.")
    for line in block.text.splitlines():
        if end.match(line.strip()):
            runs.append([])
        elif line.strip():
            runs[-1].append(line.strip())
    return [part for part in runs if part]


class Documents(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.texts = {name: (SOURCE / name).read_text(encoding="utf-8") for name in snippets.documents()}
        cls.blocks = [block for name, text in cls.texts.items() for block in snippets.blocks_of(text, name)]
        cls.scratch = pathlib.Path(tempfile.mkdtemp(prefix="weightcast-documents-"))
        cls.addClassCleanup(shutil.rmtree, cls.scratch)
        cls.installed = Installed(arguments.build, cls.scratch)

    def of_kind(self, *kinds):
        found = [block for block in self.blocks if block.kind in kinds]
        self.assertTrue(found, f"no block of {kinds} in any document: nothing was tested")
        return found

    def reader(self, **more):
        """The environment of somebody who has installed the library, in a place of his own."""
        place = pathlib.Path(tempfile.mkdtemp(prefix="wc-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, place)
        env = environment(
            HOME=place / "home",
            WEIGHTCAST_DIRECTORY=place / "meet",
            WEIGHTCAST_JOB=f"documents-{os.getpid()}",
            LD_LIBRARY_PATH=self.installed.library_folder,
            OMP_NUM_THREADS=1,
            **more,
        )
        (place / "home").mkdir()
        env["PATH"] = f"{self.installed.command.parent}{os.pathsep}{env['PATH']}"
        return env

    def tearDown(self):
        left = [name for name in os.listdir("/dev/shm") if f"documents-{os.getpid()}" in name]
        self.assertEqual(left, [], "left in /dev/shm")

    def needs_command(self):
        if not self.installed.command.exists():
            self.skipTest("this build has no command: -Dcli")

    def test_each_block_has_a_kind(self):
        for block in self.blocks:
            if block.kind or block.document not in BARE:
                self.assertIn(block.kind, KINDS, f"{block}: expected one of {', '.join(KINDS)}")
            if block.kind == "text":
                typed = [line for line in block.text.splitlines() if re.match(r"(\$ |weightcast |scripts/)", line)]
                self.assertEqual(typed, [], f"{block}: commands belong into blocks of kind bash")
        bare = {block.document for block in self.blocks if not block.kind}
        self.assertEqual(bare, set(BARE), "BARE names documents without such a block")

    def test_links_lead_somewhere(self):
        anchors = {name: snippets.anchors_of(text) for name, text in self.texts.items()}
        for name, text in self.texts.items():
            for link in snippets.links_of(text):
                if re.match(r"https?://", link):
                    continue
                path, _, anchor = link.partition("#")
                target = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
                self.assertTrue((SOURCE / target).exists(), f"{name}: {link}: there is no {target}")
                if anchor:
                    self.assertIn(anchor, anchors.get(target, ()), f"{name}: {link}: no such heading")

    def test_index_names_every_document(self):
        listed = set(snippets.links_of(self.texts["docs/README.md"]))
        there = {path.name for path in (SOURCE / "docs").glob("*.md")} - {"README.md"}
        self.assertEqual(there - listed, set(), "docs/README.md does not name these")

    def test_excerpts_are_in_their_files(self):
        """Excerpts of programs say their file; a diff's lines are in the two files that it names."""
        marked = [block for block in self.blocks if block.source]
        self.assertGreater(len(marked), 5)
        for block in self.of_kind("cpp", *EXCERPTS):
            if block.kind != "cpp" or "int main" not in block.text:
                self.assertTrue(block.source, f"{block}: expected <!-- from FILE --> in the line before")
        for block in marked:
            if block.kind == "diff":
                continue
            lines = [line.strip() for line in (SOURCE / block.source).read_text(encoding="utf-8").splitlines()]
            lines = [line for line in lines if line]
            at = 0
            for part in parts_of_excerpt(block):
                found = [i for i in range(at, len(lines)) if lines[i : i + len(part)] == part]
                self.assertTrue(found, f"{block}: not in {block.source}:\n" + "\n".join(part))
                at = found[0] + len(part)

    def test_diffs_are_between_real_files(self):
        for block in self.of_kind("diff"):
            self.assertIn("..", block.source, f"{block}: expected <!-- from OLD..NEW -->")
            old, new = (
                {line.strip() for line in (SOURCE / file).read_text(encoding="utf-8").splitlines()}
                for file in block.source.split("..")
            )
            for line in block.text.splitlines():
                body = line[1:].strip()
                if not body or body == "..." or line == "...":
                    continue
                if line[0] in "- ":
                    self.assertIn(body, old, f"{block}: {line}")
                if line[0] in "+ ":
                    self.assertIn(body, new, f"{block}: {line}")
                if line[0] == "+":
                    self.assertNotIn(body, old, f"{block}: not new: {line}")
                self.assertIn(line[0], "+- ", f"{block}: {line}")

    def test_commands_run(self):
        self.needs_command()
        env = {name: self.reader() for name in self.texts}
        folders = {}
        used = set()
        for block in self.of_kind("bash"):
            typed = []
            for command in commands_of(block.text):
                pattern = reason_to_leave_out(command)
                used.add(pattern)
                if pattern is None:
                    typed.append(command)
            if not typed:
                continue
            folder = folders.setdefault(block.document, pathlib.Path(tempfile.mkdtemp(dir=self.scratch)))
            with self.subTest(block=str(block)):
                run(["bash", "-euo", "pipefail", "-c", "\n".join(typed)], env=env[block.document], cwd=folder)
        self.assertEqual(set(LEFT_OUT) - used, set(), "LEFT_OUT names commands that no document has")
        self.assertTrue(folders, "no command was run")

    def test_configuration_files_are_accepted(self):
        self.needs_command()
        for block in self.of_kind("toml"):
            file = self.scratch / "job.toml"
            file.write_text(block.text, encoding="utf-8")
            with self.subTest(block=str(block)):
                run([self.installed.command, "config", "check", file], env=self.reader())

    def test_json_is_json(self):
        for block in [block for block in self.blocks if block.kind == "json"]:
            with self.subTest(block=str(block)):
                json.loads(block.text)

    def test_queries_name_metrics_of_their_page(self):
        for block in [block for block in self.blocks if block.kind == "promql"]:
            known = set(re.findall(r"`(weightcast_\w+)`", self.texts[block.document]))
            for name in re.findall(r"weightcast_\w+", block.text):
                base = re.sub(r"_(bucket|sum|count)$", "", name)
                self.assertTrue({name, base} & known, f"{block}: no metric {name}")

    def test_manifests(self):
        try:
            import yaml
        except ImportError:
            self.skipTest("no PyYAML here: pip install pyyaml, or run scripts/test.sh, which installs it")
        for block in self.of_kind("yaml"):
            with self.subTest(block=str(block)):
                for part in yaml.safe_load_all(block.text):
                    if isinstance(part, dict) and "kind" in part:
                        self.check_manifest(part, str(block))

    def check_manifest(self, part, where):
        """What a cluster would refuse at once: no version or name, volumes and secrets that are not there."""
        self.assertTrue(part.get("apiVersion"), where)
        self.assertRegex(part["metadata"]["name"], r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", where)
        pod = part.get("spec", {}).get("template", part).get("spec", {})
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in pod.get("containers", []):
            self.assertTrue(container.get("image"), where)
            for mount in container.get("volumeMounts", []):
                self.assertIn(mount["name"], volumes, where)
                self.assertTrue(mount["mountPath"].startswith("/"), where)
            for variable in container.get("env", []):
                self.assertIsInstance(variable.get("value", ""), str, f"{where}: {variable['name']}")
        if part["kind"] in ("Deployment", "Job", "StatefulSet"):
            self.assertTrue(pod.get("containers"), where)
        selector = part.get("spec", {}).get("selector", {})
        if "matchLabels" in selector:
            labels = part["spec"]["template"]["metadata"]["labels"]
            self.assertLessEqual(selector["matchLabels"].items(), labels.items(), where)

    def test_programs_compile_and_run(self):
        programs = [block for block in self.blocks if block.kind == "cpp" and "int main" in block.text]
        for number, block in enumerate(block for block in programs if not block.source):
            with self.subTest(block=str(block)):
                file, program = self.scratch / f"{number}.cpp", self.scratch / f"program-{number}"
                file.write_text(block.text, encoding="utf-8")
                compiler = os.environ.get("CXX", "c++")
                build = [compiler, "-std=c++20", "-O0", "-Wall", "-Werror", file, "-o", program]
                build += [f"-I{self.installed.headers}", f"-L{self.installed.library_folder}", "-lweightcast"]
                run(build)
                run([program], env=self.reader())

    def test_error_texts_are_the_sources(self):
        """What docs/troubleshooting.md quotes after `Says:` is in a string of the sources."""
        literals = texts.literals(SOURCE)
        said = texts.said(self.texts["docs/troubleshooting.md"])
        self.assertGreater(len(said), 20)
        unknown = [fragment for fragment in said if not texts.is_said(fragment, literals)]
        self.assertEqual(unknown, [], "no source says these")

    def test_protocol_page_names_every_message(self):
        text = self.texts["docs/protocol.md"]
        for file in ("proto/weightcast.proto", "proto/data.proto"):
            for name in re.findall(r"^(?:message|enum) (\w+)", (SOURCE / file).read_text(), re.M):
                self.assertIn(f"`{name}`", text, f"docs/protocol.md does not explain {name} of {file}")
        header = (SOURCE / "src/protocol/message.hpp").read_text()
        [version] = re.findall(r"kProtocolVersion = (\d+)", header)
        self.assertIn(f"protocol version {version}", text)

    def test_first_steps(self):
        """The reader's own trainer and worker, by the lines of docs/first-steps.md."""
        if not arguments.torch_dir:
            self.skipTest("this build has no torch: configure it with -Dtorch_dir")
        if not shutil.which("cmake", path=environment()["PATH"]):
            self.skipTest("no cmake here: install its package")
        folder = pathlib.Path(tempfile.mkdtemp(prefix="first steps ", dir=self.scratch))
        shutil.copytree(SOURCE / "examples/first_steps", folder, dirs_exist_ok=True)
        lines = [
            command
            for block in self.blocks
            if block.document == "docs/first-steps.md" and block.kind == "bash"
            for command in commands_of(block.text)
            if re.match(r"cmake (-S|--build)|build/(worker|trainer)|wait$", command)
        ]
        self.assertEqual(len(lines), 5, lines)
        env = self.reader(TORCH_DIR=arguments.torch_dir, CMAKE_PREFIX_PATH=self.installed.prefix)
        said = run(["bash", "-eu", "-c", "\n".join(lines)], env=env, cwd=folder)
        self.assertRegex(said, r"step 1000: loss 0\.0\d+")
        self.assertRegex(said, r"version \d{4,} is served by 1\n")
        served = [float(value) for value in re.findall(r"sin\(1\) = (-?[\d.]+)", said)]
        self.assertGreater(len(served), 10)
        self.assertAlmostEqual(served[-1], 0.841, delta=0.1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--torch-dir", default="")
    known, sys.argv[1:] = parser.parse_known_args()
    arguments.build, arguments.torch_dir = known.build.resolve(), known.torch_dir
    sys.exit(gtest_report.main(Documents))
