"""Every promise of docs/guarantees.md has tests, which exist."""

import unittest

from test_security import TEST, rows, text

PAGE = "docs/guarantees.md"
SECTIONS = ["A copy that is promised is there", "What was protected stays protected", "What you learn"]


class Promises(unittest.TestCase):
    def test_the_tests_exist(self):
        for section in SECTIONS:
            promises = rows(PAGE, section)
            self.assertGreater(len(promises), 3, section)
            for promise, _, tests in promises:
                found = TEST.findall(tests)
                self.assertTrue(found, promise)
                self.assertEqual(", ".join(f"`{file}` `{test}`" for file, test in found), tests, promise)
                for file, test in found:
                    with self.subTest(promise, test=test):
                        self.assertRegex(text(file), rf"\b(fn|def) {test}\(")


if __name__ == "__main__":
    unittest.main()
