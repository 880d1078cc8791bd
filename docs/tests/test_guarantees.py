"""Every promise of docs/guarantees.md has tests, which exist."""

import unittest

import test_security

PAGE = "docs/guarantees.md"
SECTIONS = ["Copies exist and are complete", "Protected workloads stay protected", "Failures are reported"]


class Promises(test_security.TestsOfStatements):
    def test_the_tests_exist(self):
        for section in SECTIONS:
            promises = test_security.rows(PAGE, section)
            self.assertGreater(len(promises), 3, section)
            for promise, _, tests in promises:
                self.assert_tests_exist(promise, tests)


if __name__ == "__main__":
    unittest.main()
