"""What checks files can fail: each mistake is found, with its file."""

import re
import unittest

from support import ROOT, checkout, run, skip


class Lint(unittest.TestCase):
    def setUp(self):
        if run(ROOT / "charts/scripts/tools.sh", "lint").returncode != 0:
            skip(self, "the programs that check scripts and workflows cannot be had")
        self.folder = checkout(self)

    def lint(self):
        done = run("publish/lint-files.sh", self.folder, cwd=ROOT)
        return done.returncode, done.stdout + done.stderr

    def test_mistakes_are_found(self):
        pinned = r"actions/checkout@[0-9a-f]{40} # v[0-9.]+"
        mistakes = {
            "a job that is not there": (".github/workflows/release.yml", "needs: check\n", "needs: chekc\n", "chekc"),
            "an action without a commit": (".github/workflows/ci.yml", pinned, "actions/checkout@v7", "unpinned"),
            "text of others in a script": (
                ".github/workflows/ci.yml", r"run: \.ci/run", 'run: echo "${{ github.head_ref }}"', "template-injection"),
            "an unknown key of a workflow": (".github/workflows/ci.yml", "timeout-minutes", "timeout-mintues", "mintues"),
            "no tag of a base": ("Dockerfile", "rust:[^ ]+", "rust", "DL3006"),
            "an unquoted variable": ("publish/sign.sh", r'what=\$1', "what=$1; rm -r $what", "SC2086"),
            "a wrong setting": ("renovate.json", r'\["dependencies"\]', '7', "labels"),
            "an unquoted variable in a workflow": (
                ".github/workflows/release.yml", r'upload --clobber "\$GITHUB_REF_NAME"', "upload --clobber $GITHUB_REF_NAME",
                "job files, step gh release upload"),
            "a banned crate": ("deny.toml", r'crate = "cmake"', 'crate = "ring"', "error[banned]: crate 'ring"),
            "a license that is not allowed": ("deny.toml", r'  "ISC",\n', "", "rejected: license is not explicitly allowed"),
            "a second version of a crate": (
                "deny.toml", r'  \{ crate = "base64@.*\n', "", "found 2 duplicate entries for crate 'base64'"),
            "a circle of imports": (
                "mirror-contract/src/registry_rules.rs", "use crate::grammar;", "use crate::grammar;\nuse crate::naming::Backup as _;",
                "mirror-contract/src/naming.rs -> mirror-contract/src/registry_rules.rs: NamingError, RegistryRules"),
            "a flag in the engine": (
                "mirror-copy/src/error/advice.rs", "add it to the insecure hosts", "use --insecure-registry",
                "the engine must not contain `--insecure-registry`"),
            "a tag suffix in the engine": (
                "mirror-copy/src/copy/referrers.rs", r"starts_with\('\.'\)", 'ends_with(".mirror")',
                "the engine must not contain `.mirror`"),
            "another version": ("metadata.yml", "policy.version: .*", "policy.version: 9.9.9", "9.9.9"),
        }
        # All at once, because a run takes seconds.
        for name, before, after, _ in mistakes.values():
            path = self.folder / name
            text = path.read_text()
            self.assertRegex(text, before)
            path.write_text(re.sub(before, lambda _: after, text, count=1))
        code, output = self.lint()
        self.assertEqual(code, 1, output)
        for what, (*_, complaint) in mistakes.items():
            with self.subTest(what):
                self.assertIn(complaint, output)

    def test_nothing_is_pushed_before_the_policy_was_tried_and_the_chart_comes_last(self):
        text = (ROOT / ".github/workflows/release.yml").read_text()
        jobs = dict(re.findall(r"(?ms)^  ([a-z-]+):\n(    .*?)(?=^  [a-z-]+:\n|\Z)", text.partition("\njobs:\n")[2]))
        needs = {name: set(re.findall(r"[a-z-]+", "".join(re.findall(r"(?m)^    needs: (.*)", job)))) for name, job in jobs.items()}

        def before(name):
            return needs[name].union(*map(before, needs[name]))

        writing = {name for name, job in jobs.items() if re.search(r"(packages|contents): write", job)}
        self.assertLessEqual({"draft", "image", "index", "files", "policy", "chart", "policy-signature"}, writing)
        for name in writing:
            self.assertLessEqual({"check", "try-policy"}, before(name), name)
        self.assertLessEqual({"index", "policy", "files", "package"}, before("chart"))
        self.assertLessEqual({"index", "draft", "package"}, before("files"))

    def test_there_are_none(self):
        code, output = self.lint()
        self.assertEqual(code, 0, output)

    def test_every_image_of_a_build_has_a_digest(self):
        """A tag may move. `scratch` and earlier stages are no images of a registry."""
        lines = re.findall(r"(?m)^FROM (?:--\S+ )?(\S+)", (ROOT / "Dockerfile").read_text())
        images = [("Dockerfile", image) for image in lines if image != "scratch"]
        # A frontend would be one more image that runs in the build.
        self.assertNotIn("syntax=", (ROOT / "Dockerfile").read_text())
        for file in (ROOT / ".github/workflows").glob("*.yml"):
            images += [(file.name, image) for image in re.findall(r"(?m)^ +(?:image|container): (\S+)", file.read_text())]
        self.assertEqual({file for file, _ in images}, {"Dockerfile", "ci.yml"})
        for file, image in images:
            with self.subTest(f"{file}: {image}"):
                self.assertRegex(image, r"^docker\.io/[a-z/]+:[0-9.a-z-]+@sha256:[0-9a-f]{64}$")

    def test_every_action_has_a_commit_and_its_version(self):
        for file in (ROOT / ".github/workflows").glob("*.yml"):
            for line in re.findall(r"uses: (.*)", file.read_text()):
                with self.subTest(f"{file.name}: {line}"):
                    self.assertRegex(line, r"^[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
