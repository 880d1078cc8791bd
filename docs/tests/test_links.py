"""Links between files, and to headings, lead somewhere."""

import unittest
from pathlib import PurePosixPath

from markdown import ROOT, anchors, files, links

ELSEWHERE = ("http://", "https://", "mailto:")


def broken(name):
    """What is wrong with the links of a file."""
    for line, target in links(name):
        if target.startswith(ELSEWHERE):
            continue
        path, _, anchor = target.partition("#")
        there = (ROOT / name).parent / path if path else ROOT / name
        if not there.exists():
            yield f"{name}:{line}: there is no {path}"
        elif anchor and anchor not in anchors(str(there.resolve().relative_to(ROOT))):
            yield f"{name}:{line}: {path or name} has no heading for #{anchor}"
        elif name.startswith("charts/") and path:
            yield f"{name}:{line}: the chart is published without {path}: give its full address"


class Links(unittest.TestCase):
    def test_they_lead_somewhere(self):
        self.assertEqual([text for name in files() for text in broken(name)], [])

    def test_every_page_can_be_reached_from_the_readme(self):
        seen, waiting = set(), ["README.md"]
        while waiting:
            name = waiting.pop()
            if name in seen or not name.endswith(".md"):
                continue
            seen.add(name)
            for _, target in links(name):
                path = target.partition("#")[0]
                if path and not target.startswith(ELSEWHERE):
                    waiting.append(str(PurePosixPath(((ROOT / name).parent / path).resolve().relative_to(ROOT))))
        pages = {name for name in files() if name.startswith("docs/")}
        self.assertEqual(pages - seen, set())

    def test_anchors_are_those_of_github(self):
        self.assertLessEqual({"several-replicas", "copies-of-images-in-use"}, anchors("docs/cluster.md"))
