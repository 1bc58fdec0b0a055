"""What the sources can say: their string literals, and what the documents claim that they say."""

import re

LITERAL = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
# Literals with nothing but white space between them are one.
CHAIN = re.compile(r'"(?:[^"\\\n]|\\.)*"(?:\s*"(?:[^"\\\n]|\\.)*")*')


def literals(root):
    """Of src/ and plugin/, neighbours joined, escapes undone. Comments are left out."""
    found = set()
    for folder in ("src", "plugin"):
        for path in sorted((root / folder).rglob("*.[ch]pp")):
            code = re.sub(r"^\s*(//|#include).*$", "", path.read_text(encoding="utf-8"), flags=re.M)
            for chain in CHAIN.findall(code):
                joined = "".join(LITERAL.findall(chain))
                found.add(joined.replace('\\"', '"').replace("\\n", "\n"))
    return found


def said(text):
    """The fragments between `...` of each code span in the paragraphs that begin with `Says:`."""
    paragraphs = re.findall(r"^Says: (.*?)(?:\n\n|\Z)", text, re.M | re.S)
    spans = [span for paragraph in paragraphs for span in re.findall(r"`([^`]+)`", paragraph.replace("\n", " "))]
    fragments = [part.strip() for span in spans for part in span.split("...")]
    return [fragment for fragment in fragments if fragment]


def is_said(fragment, said_by_sources):
    """An event counts by its name, whether the sources write the line or name the event alone."""
    event = re.match(r"event=(\w+)", fragment)
    if event and event[1] in said_by_sources:
        return True
    return any(fragment in literal for literal in said_by_sources)
