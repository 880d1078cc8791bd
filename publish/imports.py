#!/usr/bin/env python3
"""Checks what the files of the product import: no circles, and a copy engine without names of the product.

Usage: imports.py [FOLDER]     another checkout than this one

File A imports file B if a path in A, in a `use` or in the code, names something that B defines. A re-export counts for the
file that defines the name, and only if its own file uses the name as well. `mod` alone is no import; tests do not count.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

# The crates that are checked.
ROOTS = ["mirror-contract", "mirror-copy", "policy", "mirror-sidecar"]
# The copy engine, and what it must not contain: names of the product, flags of its command line, suffixes of its tags.
ENGINE = Path("mirror-copy/src")
FOREIGN = re.compile(r"image-mirror\.dev|(?<![\w-])--[a-z][a-z-]*|\.mirror\b")

DEFINITION = re.compile(
    r"\b(?:struct|enum|union|trait|type|fn|const|static|macro_rules!)\s+(?:mut\s+|fn\s+)?(?:r#)?([A-Za-z_]\w*)")
TOKEN = re.compile(r"::|[A-Za-z_]\w*|[^\w\s]")


def without_comments(text, keep_strings=False):
    """The same text with blanks instead of comments, and of what literals hold."""
    pattern = re.compile(
        r'//[^\n]*|/\*.*?\*/|b?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?\'(?:\\.[^\']*|[^\'\\])\'', re.DOTALL)

    def blank(found):
        if keep_strings and not found[0].startswith("/"):
            return found[0]
        return re.sub(r"[^\n]", " ", found[0])

    return pattern.sub(blank, text)


def without_tests(code):
    """The same code with blanks instead of items that only tests and fuzzing compile."""
    while found := re.search(r"#\[cfg\((?:test|any\(fuzzing, test\)|fuzzing)\)\]", code):
        depth = 0
        for end in range(found.end(), len(code)):
            depth += {"{": 1, "(": 1, "[": 1, "}": -1, ")": -1, "]": -1}.get(code[end], 0)
            if depth == 0 and (code[end] in ";}" or code[end] == "," and "{" not in code[found.end():end]) or depth < 0:
                break
        code = code[:found.start()] + re.sub(r"[^\n]", " ", code[found.start():end + 1]) + code[end + 1:]
    return code


class File:
    def __init__(self, path, module, code):
        self.path, self.module = path, module
        self.children = set(re.findall(r"\bmod\s+(\w+)\s*;", code))
        self.uses, self.private_uses, rest = [], [], []
        position = 0
        for found in re.finditer(r"\b(pub(?:\s*\([^)]*\))?\s+)?use\s+([^;]*);", code):
            rest.append(code[position:found.start()])
            position = found.end()
            leaves = use_tree(TOKEN.findall(found[2]))
            self.uses += leaves
            if not found[1]:
                self.private_uses += leaves
        self.code = re.sub(r"\bmod\s+\w+\s*;", "", "".join([*rest, code[position:]]))
        self.names = set(re.findall(r"\w+", self.code))
        self.defines = defined(self.code)


def defined(code):
    """Names of the items at the top of a file, and of the variants and functions in them."""
    names, depth = set(), 0
    for line in re.split(r"(?<=[{};])", code):
        if depth == 0:
            names.update(DEFINITION.findall(line))
        depth += line.count("{") - line.count("}")
    return names


def use_tree(tokens, prefix=()):
    """Pairs of the local name and the path of each leaf of a `use`."""
    leaves, path = [], list(prefix)
    index = 0
    while index < len(tokens):
        token = tokens[index]
        if token == "{":
            depth, start, inner = 0, index + 1, []
            while True:
                depth += {"{": 1, "}": -1}.get(tokens[index], 0)
                if depth == 0 or depth == 1 and tokens[index] == ",":
                    inner.append(tokens[start:index])
                    start = index + 1
                if depth == 0:
                    break
                index += 1
            return leaves + [leaf for part in inner if part for leaf in use_tree(part, tuple(path))]
        if token == "as":
            return [(tokens[index + 1], tuple(path))]
        if token != "::":
            path.append(token)
        index += 1
    if path[-1] == "self":
        path.pop()
    return [(path[-1], tuple(path))]


def read_crate(root, crate):
    files = {}
    source = root / crate / "src"
    for path in sorted(source.rglob("*.rs")):
        parts = path.relative_to(source).with_suffix("").parts
        if {"tests", "testing", "fuzzing"} & set(parts) or parts == ("main",):
            continue
        module = () if parts == ("lib",) else parts
        code = without_tests(without_comments(path.read_text()))
        files[module] = File(str(path.relative_to(root)), module, code)
    # What only tests declare: a file without its `mod` in the product.
    return {
        module: file for module, file in files.items()
        if not module or module[:-1] in files and module[-1] in files[module[:-1]].children
    }


def absolute(file, path, bindings, files):
    """The path from the crate's root, or None for what another crate has."""
    head, module = path[0], list(file.module)
    if head == "crate":
        return path[1:]
    if head in ("self", "super"):
        rest = list(path)
        while rest and rest[0] in ("self", "super"):
            if rest.pop(0) == "super":
                module = module[:-1]
        return tuple(module + rest)
    if head in bindings and bindings[head] != path:
        bound = absolute(file, bindings[head], {}, files)
        return bound and bound + path[1:]
    if head in file.children or head in file.defines:
        return tuple(module) + path
    return None


def defining(path, files, seen=()):
    """The module that defines the first item on this path, its name with it."""
    module = ()
    for index, name in enumerate(path):
        if name in files[module].children and module + (name,) in files:
            module += (name,)
            continue
        file = files[module]
        if name in file.defines or (module, name) in seen:
            return module, name
        for local, target in file.uses:
            if local == name:
                found = absolute(file, target, {}, files)
                return found and defining(found + path[index + 1:], files, (*seen, (module, name)))
        return (module, name) if file.names & {name} else None
    return None


def imports(files):
    """For each file, the files that it imports, with the names."""
    arrows = defaultdict(lambda: defaultdict(set))
    for file in files.values():
        bindings = dict(file.uses)
        # A public `use` whose name the file does not use itself is only a re-export. A private one is always an import: its
        # name may stand in a format string.
        paths = [path for name, path in file.uses if name in file.names]
        paths += [path for _, path in file.private_uses]
        paths += [tuple(re.split(r"\s*::\s*", found)) for found in re.findall(
            r"(?<![\w:])(?<!::)(?:[a-z_]\w*\s*::\s*)+\w+", file.code)]
        for path in paths:
            target = absolute(file, path, bindings, files)
            found = target and defining(target, files)
            if found and found[0] != file.module:
                arrows[file.module][found[0]].add(found[1])
    return arrows


def circles(arrows):
    """Sets of files each of which reaches all others of its set (Tarjan's algorithm)."""
    index, low, stack, result = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in arrows.get(node, ()):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            position = stack.index(node)
            if len(stack) - position > 1:
                result.append(set(stack[position:]))
            del stack[position:]

    for node in list(arrows):
        if node not in index:
            visit(node)
    return result


def main(root):
    failed = False
    for crate in ROOTS:
        files = read_crate(root, crate)
        arrows = imports(files)
        for circle in circles(arrows):
            failed = True
            print(f"{len(circle)} files of {crate} import each other in a circle:", file=sys.stderr)
            for module in sorted(circle):
                for other in sorted(circle & set(arrows[module])):
                    names = ", ".join(sorted(arrows[module][other]))
                    print(f"  {files[module].path} -> {files[other].path}: {names}", file=sys.stderr)
    for path in sorted((root / ENGINE).rglob("*.rs")):
        code = without_tests(without_comments(path.read_text(), keep_strings=True))
        if "fuzzing" in path.parts or path.stem in ("tests", "testing"):
            continue
        for number, line in enumerate(code.splitlines(), 1):
            if found := FOREIGN.search(line):
                failed = True
                print(f"{path.relative_to(root)}:{number}: the engine must not contain `{found[0]}`", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent))
