"""The counts of docs/styles.md are those of examples/styles. Run by tests/unit/scripts_test.cpp."""

import pathlib
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))
sys.dont_write_bytecode = True

import style_lines  # noqa: E402


class Test(unittest.TestCase):
    def test_the_page_has_the_counts(self):
        page = (ROOT / "docs" / "styles.md").read_text()
        self.assertIn(style_lines.table(), page, "run scripts/lib/style_lines.py --write")

    def test_every_style_is_in_the_table_and_small(self):
        styles = ROOT / "examples" / "styles"
        self.assertEqual(set(style_lines.STYLES), {path.parent.name for path in styles.glob("*/weightcast.cpp")})
        for name in style_lines.STYLES:
            for section, (added, removed) in style_lines.count(styles / name).items():
                self.assertLessEqual(added, 10, f"{name}, {section}")
                self.assertGreaterEqual(removed, 1, f"{name}, {section}")

    def test_what_counts(self):
        head = "#include <a>\n// ---- worker ----\n"
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            (folder / "plain.cpp").write_text(head + "a();\nb();\n\n// ---- trainer: x\nc();\n")
            (folder / "weightcast.cpp").write_text(head + "a();\n// why\nd();\ne();\n// ---- trainer: x\n\nc();\n")
            self.assertEqual(style_lines.count(folder), {"head": (0, 0), "worker": (2, 1), "trainer": (0, 0)})
            (folder / "plain.cpp").write_text(head)
            with self.assertRaises(SystemExit):
                style_lines.count(folder)


if __name__ == "__main__":
    unittest.main()
