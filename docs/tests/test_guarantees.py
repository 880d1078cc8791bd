"""Every promise of docs/guarantees.md has tests, which exist."""

import unittest

import test_security

PAGE = "docs/guarantees.md"
SECTIONS = ["A copy that is promised is there", "What was protected stays protected", "What you learn"]


class Promises(test_security.TestsOfStatements):
    def test_the_tests_exist(self):
        for section in SECTIONS:
            promises = test_security.rows(PAGE, section)
            self.assertGreater(len(promises), 3, section)
            for promise, _, tests in promises:
                self.assert_tests_exist(promise, tests)


if __name__ == "__main__":
    unittest.main()
