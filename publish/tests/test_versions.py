"""One version everywhere, and a tool that changes it everywhere."""

import re
import unittest

from support import checkout, run

NEXT = "1.20.3-rc.1"


def versions(folder, *arguments):
    return run("publish/versions.py", *arguments, cwd=folder)


class Versions(unittest.TestCase):
    def test_all_files_agree_now(self):
        done = versions(checkout(self), "check")
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_a_bump_reaches_every_file(self):
        folder = checkout(self)
        before = versions(folder, "show").stdout.strip()
        self.assertEqual(versions(folder, "bump", NEXT).returncode, 0)
        self.assertEqual(versions(folder, "show").stdout.strip(), NEXT)
        done = versions(folder, "check", f"v{NEXT}")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        # Nothing of ours has the old one. What others have is named here, line by line.
        series = ".".join(before.split(".")[:2])
        left = run("git", "grep", "-nE", rf"(^|[^0-9.]){re.escape(series)}\.({before.split('.')[2]}|x)($|[^0-9.])", "--",
                   ":!CHANGELOG.md", ":!publish/tests", cwd=folder).stdout
        others = r"Cargo\.lock:\d+:|Cargo\.toml:\d+:\w[\w-]* = |SettingsVersion|(benches|e2e-tests/(fixtures|src)|testkit)/|bench-"
        self.assertEqual([line for line in left.splitlines() if not re.search(others, line)], [])
        names = "benches|demo|e2e-tests|image-mirror-policy|mirror-contract|mirror-copy|mirror-sidecar|testkit"
        self.assertEqual(len(re.findall(rf'name = "(?:{names})"\nversion = "{re.escape(NEXT)}"', (folder / "Cargo.lock").read_text())), 8)

    def test_cargo_accepts_a_bump(self):
        folder = checkout(self)
        versions(folder, "bump", NEXT)
        done = run("cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version", "1", cwd=folder)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(f'"version":"{NEXT}"', done.stdout)

    def test_each_file_that_disagrees_is_named(self):
        folder = checkout(self)
        version = versions(folder, "show").stdout.strip()
        for name, place in {
            "metadata.yml": f"policy.version: {version}",
            "artifacthub-pkg.yml": f"version: {version}",
            "charts/image-mirror/Chart.yaml": f"appVersion: v{version}",
            "docs/policy-settings.md": f"policies/image-mirror:v{version}",
            "docs/gitops.md": f"targetRevision: {version}",
            "Cargo.lock": f'name = "mirror-sidecar"\nversion = "{version}"',
        }.items():
            with self.subTest(name):
                path = folder / name
                text = path.read_text()
                self.assertIn(place, text)
                path.write_text(text.replace(place, place.replace(version, "9.9.9")))
                done = versions(folder, "check")
                path.write_text(text)
                self.assertEqual(done.returncode, 1)
                self.assertIn(f"{name}:", done.stderr)
                self.assertIn("9.9.9", done.stderr)

    def test_a_version_that_is_gone_is_missed(self):
        folder = checkout(self)
        path = folder / "metadata.yml"
        path.write_text(re.sub(r".*policy\.version.*\n", "", path.read_text()))
        self.assertIn("metadata.yml: there is no version", versions(folder, "check").stderr)

    def test_a_tag_needs_the_version_and_an_entry_in_the_changelog(self):
        folder = checkout(self)
        self.assertIn("the tag is v9.9.9", versions(folder, "check", "v9.9.9").stderr)
        path = folder / "CHANGELOG.md"
        versions(folder, "bump", NEXT)
        path.write_text(path.read_text().replace(f"## [{NEXT}]", "## [0.0.1]"))
        self.assertIn(f"there is nothing about {NEXT}", versions(folder, "check", f"v{NEXT}").stderr)

    def test_notes_are_what_was_unreleased(self):
        folder = checkout(self)
        path = folder / "CHANGELOG.md"
        path.write_text("# Changelog\n\n## [Unreleased]\n\n### Added\n\n- New.\n\n## [0.0.1] - 2020-01-01\n\n- Old.\n")
        versions(folder, "bump", NEXT)
        self.assertEqual(versions(folder, "notes", NEXT).stdout, "### Added\n\n- New.\n")
        self.assertEqual(versions(folder, "notes", "0.0.1").stdout, "- Old.\n")
        self.assertEqual(versions(folder, "notes", "0.0.2").returncode, 1)

    def test_a_range_follows_the_series(self):
        folder = checkout(self)
        path = folder / "docs/gitops.md"
        versions(folder, "bump", NEXT)
        self.assertIn("    semver: 1.20.x\n", path.read_text())
        path.write_text(path.read_text().replace("semver: 1.20.x", "semver: 1.19.x"))
        self.assertIn("docs/gitops.md:", versions(folder, "check").stderr)

    def test_a_release_without_a_word_is_refused(self):
        folder = checkout(self)
        path = folder / "CHANGELOG.md"
        path.write_text("# Changelog\n\n## [Unreleased]\n\n## [0.0.1] - 2020-01-01\n\n- Old.\n")
        self.assertIn("nothing is unreleased", versions(folder, "bump", NEXT).stderr)
        self.assertEqual(run("git", "diff", "--stat", "--", ":!CHANGELOG.md", cwd=folder).stdout, "")
        # What `notes` cannot print does not pass the check either.
        version = versions(folder, "show").stdout.strip()
        path.write_text(path.read_text() + f"\n## [{version}] - 2020-01-02\n\n")
        self.assertEqual(versions(folder, "notes", version).returncode, 1)
        self.assertIn(f"there is nothing about {version}", versions(folder, "check", f"v{version}").stderr)

    def test_what_is_no_version_is_refused(self):
        folder = checkout(self)
        for wrong in ("1.2", "v1.2.3", "1.2.3+build", "1.2.3-", ""):
            with self.subTest(wrong):
                self.assertNotEqual(versions(folder, "bump", wrong).returncode, 0)
        self.assertEqual(run("git", "diff", "--stat", cwd=folder).stdout, "")
