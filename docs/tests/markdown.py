"""Reads Markdown: fenced blocks with their marks, links, headings, words in backticks."""

import functools
import re
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# Made of another file, whose blocks and names are checked instead.
GENERATED = {"charts/image-mirror/README.md"}
# What a mark says first, and the options that it knows. Other words with an equals sign replace text.
OPTIONS = {"in", "file", "until", "code"}


class MarkError(Exception):
    """A mark that says nothing that is known."""


@dataclass
class Block:
    """A fenced block: where it is, what is in it, and what its mark says."""

    file: str
    line: int
    language: str
    text: str
    kind: str = ""
    options: dict = field(default_factory=dict)
    replacements: list = field(default_factory=list)

    def __str__(self):
        return f"{self.file}:{self.line}"


def files(*endings):
    """The files of this project with such an ending, Markdown by default, as paths below the root."""
    return sorted(name for name in known() if name.endswith(endings or (".md", ".md.in")))


@functools.cache
def known():
    """What git keeps: notes and whatever else lies around is nobody's documentation."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def written():
    """Those that people write."""
    return [name for name in files() if name not in GENERATED]


def read(name):
    return (ROOT / name).read_text()


def blocks(name, text=None):
    """The fenced blocks of a file."""
    lines = (read(name) if text is None else text).splitlines()
    result, start = [], None
    for number, line in enumerate(lines):
        if start is None and (match := re.match(r"^( *)(`{3,}|~{3,})\s*(\S*)", line)):
            start, (indent, fence, language) = number, match.groups()
        elif start is not None and line.strip() == fence:
            content = "\n".join(part.removeprefix(indent) for part in lines[start + 1 : number]) + "\n"
            block = Block(name, start + 1, language, content)
            if start and (match := re.match(r"^\s*<!-- (.*) -->$", lines[start - 1])):
                read_mark(block, match[1])
            result.append(block)
            start = None
    if start is not None:
        raise MarkError(f"{name}:{start + 1}: the block has no end")
    return result


def read_mark(block, mark):
    """Takes a mark apart: `not run: why`, or a kind with options and replacements."""
    if mark.startswith("not run:"):
        block.kind, block.options = "not run", {"why": mark.removeprefix("not run:").strip()}
        return
    block.kind, *words = shlex.split(mark)
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise MarkError(f"{block}: `{word}` in its mark is neither an option nor a replacement")
        if name in OPTIONS:
            block.options[name] = value
        else:
            block.replacements.append((name, value))


def prose(name):
    """The text of a file without its blocks and comments; what is left keeps its line."""
    kept, inside = [], None
    for line in read(name).splitlines():
        fence = re.match(r"^ *(`{3,}|~{3,})", line)
        if inside is None and fence:
            inside = fence[1]
        elif inside is not None and line.strip() == inside:
            inside = None
        elif inside is None:
            kept.append(line)
            continue
        kept.append("")
    return re.sub(r"<!--.*?-->", lambda match: "\n" * match[0].count("\n"), "\n".join(kept), flags=re.S)


def links(name):
    """The targets of links and images in a file, with their lines."""
    for number, line in enumerate(prose(name).splitlines(), 1):
        line = re.sub(r"`[^`]*`", "", line)
        for target in re.findall(r"\]\(([^()\s]+(?:\([^()]*\))?[^()\s]*)\)", line):
            yield number, target
        if match := re.match(r"^\[[^\]]+\]:\s*(\S+)", line):
            yield number, match[1]


def anchors(name):
    """The anchors of the headings of a file, as GitHub makes them, and those that are written out."""
    found, text = set(), prose(name)
    for heading in re.findall(r"(?m)^#{1,6}\s+(.*?)\s*#*$", text):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        plain = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        anchor, count = plain, 0
        while anchor in found:
            count += 1
            anchor = f"{plain}-{count}"
        found.add(anchor)
    return found | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))


def code_spans(name):
    """What is in backticks outside of blocks, with its line."""
    for number, line in enumerate(prose(name).splitlines(), 1):
        for _, text in re.findall(r"(`+)(.+?)\1", line):
            yield number, text.strip()
