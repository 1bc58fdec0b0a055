"""The fenced blocks, links and headings of the project's documents."""

import dataclasses
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^(```+)\s*(\S*)\s*$")
SOURCE_MARK = re.compile(r"^<!-- from (\S+) -->$")


@dataclasses.dataclass
class Block:
    """One fenced block: what stands before its first line as a mark, its kind and its text."""

    document: str  # relative to the root
    line: int  # of the opening fence, from 1
    kind: str
    text: str
    source: str = ""  # of `<!-- from FILE -->`: the file that has it, word for word

    def __str__(self):
        return f"{self.document}:{self.line} ({self.kind or 'no kind'})"


def documents(root=ROOT):
    """All documents for users, relative to the root."""
    found = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]
    found += sorted((root / "examples").glob("*/README.md"))
    return [path.relative_to(root).as_posix() for path in found]


def blocks_of(text, document):
    """Raises ValueError where a fence is never closed."""
    blocks, opened, before = [], None, ""
    for number, line in enumerate(text.splitlines(), 1):
        fence = FENCE.match(line.strip())
        if opened is None:
            if fence:
                mark = SOURCE_MARK.match(before)
                opened = (fence[1], Block(document, number, fence[2], "", mark[1] if mark else ""))
        elif fence and fence[1] == opened[0] and not fence[2]:
            blocks.append(opened[1])
            opened = None
        else:
            opened[1].text += line + "\n"
        before = line.strip()
    if opened:
        raise ValueError(f"{opened[1]}: never closed")
    return blocks


def prose_of(text):
    """The text without its fenced blocks and code spans."""
    kept, fence = [], ""
    for line in text.splitlines():
        match = FENCE.match(line.strip())
        if match and (not fence or (match[1] == fence and not match[2])):
            fence = "" if fence else match[1]
        elif not fence:
            kept.append(line)
    return re.sub(r"`[^`\n]*`", "", "\n".join(kept))


def links_of(text):
    """Targets of the links, pictures too."""
    return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose_of(text))


def anchors_of(text):
    """Of the headings, as GitHub makes them."""
    found, fence = set(), ""
    for line in text.splitlines():
        match = FENCE.match(line.strip())
        if match and (not fence or (match[1] == fence and not match[2])):
            fence = "" if fence else match[1]
        heading = re.match(r"^#{1,6}\s+(.*)$", line)
        if heading and not fence:
            plain = re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-")
            name, count = plain, 0
            while name in found:
                count += 1
                name = f"{plain}-{count}"
            found.add(name)
    return found
