#!/usr/bin/env python3
"""Writes the chart's README.md from the comments of its values.yaml. `--check` only says whether it is current.

A comment that begins with `# -- ` documents the key after it; `# ## ` begins a section. Only the standard library is
used: defaults are shown as they are written.
"""

import re
import sys
from pathlib import Path

CHART = Path(__file__).resolve().parent.parent / "image-mirror"
KEY = re.compile(r"^( *)([A-Za-z][A-Za-z0-9]*):(?: (.*))?$")


def sections(text):
    """The sections with their rows: path, default, description."""
    result, path, comment, lines = [], [], None, text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("# ## "):
            result.append((line[5:], []))
            comment = None
        elif match := re.match(r"^ *# -- (.*)$", line):
            comment = match[1]
        elif comment is not None and (match := re.match(r"^ *# (.*)$", line)):
            comment += " " + match[1]
        elif match := KEY.match(line):
            depth = len(match[1]) // 2
            path = path[:depth] + [match[2]]
            if comment is not None:
                default = match[3] or block(lines[number + 1 :], len(match[1]))
                result[-1][1].append((".".join(path), default, comment))
            comment = None
    return result


def block(lines, indent):
    """What follows a key without a value on its line, on one line."""
    own = []
    for line in lines:
        if len(line) - len(line.lstrip()) <= indent:
            break
        own.append(line.strip())
    return "see values.yaml" if len(own) > 2 else "{" + ", ".join(own) + "}"


def table(rows):
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for path, default, meaning in rows:
        shown = default if default.startswith("see ") else f"`{default}`"
        lines.append(
            "| `{}` | {} | {} |".format(path, "" if default == '""' else shown, meaning).replace("|  |", "| |")
        )
    return "\n".join(lines)


def render():
    head = (CHART / "README.md.in").read_text()
    values = (CHART / "values.yaml").read_text()
    tables = "\n\n".join(f"### {title}\n\n{table(rows)}" for title, rows in sections(values))
    return head.replace("<!-- values -->", tables)


def main():
    readme, wanted = CHART / "README.md", render()
    if "--check" not in sys.argv:
        readme.write_text(wanted)
    elif not readme.exists() or readme.read_text() != wanted:
        sys.exit(f"{readme} is not current: make chart-readme")


if __name__ == "__main__":
    main()
