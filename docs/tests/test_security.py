"""Every statement of SECURITY.md about what is protected has a test, which exists."""

import re
import unittest

from markdown import ROOT

NUMBER = re.compile(r"\(S(\d+)\)")
TEST = re.compile(r"`([\w./-]+)` `(\w+)`")


def text(name):
    return (ROOT / name).read_text()


def rows(name, heading):
    """The cells of the tables below a heading."""
    section = re.split(r"(?m)^## ", text(name).partition(f"## {heading}\n")[2])[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if "---" not in line][1:]


class TestsOfStatements(unittest.TestCase):
    """Checks the cells of a table that name tests."""

    def assert_tests_exist(self, statement, tests):
        found = TEST.findall(tests)
        self.assertTrue(found, statement)
        self.assertEqual(", ".join(f"`{file}` `{test}`" for file, test in found), tests, statement)
        for file, test in found:
            with self.subTest(statement, test=test):
                self.assertRegex(text(file), rf"\b(fn|def) {test}\(")


class Statements(TestsOfStatements):
    def setUp(self):
        self.tests = {row[0]: row[1] for row in rows("docs/security.md", "Tests of these statements")}

    def test_each_number_has_a_row_and_the_other_way_round(self):
        numbers = NUMBER.findall(text("SECURITY.md"))
        self.assertEqual(numbers, [str(number) for number in range(1, len(numbers) + 1)], "in order, each once")
        self.assertEqual(list(self.tests), [f"S{number}" for number in numbers])

    def test_whatever_somebody_cannot_do_has_a_number(self):
        table = rows("SECURITY.md", "What is protected, and from whom")
        self.assertGreater(len(table), 5)
        for who, _, cannot in table:
            for statement in cannot.split(";"):
                with self.subTest(f"{who} {statement}"):
                    self.assertRegex(statement, NUMBER)

    def test_the_tests_exist(self):
        for number, tests in self.tests.items():
            self.assert_tests_exist(number, tests)

    def test_the_table_of_attacks_has_its_place(self):
        begin, end = "<!-- attack table begin -->\n", "<!-- attack table end -->\n"
        page = text("docs/security.md")
        self.assertEqual((page.count(begin), page.count(end)), (1, 1))
        self.assertLess(page.index(begin), page.index(end))


if __name__ == "__main__":
    unittest.main()
