//! `mirror-sidecar verify`: every kind of damage is found without a write, repaired on request, and gone in the next run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bytes::Bytes;
use mirror_contract::naming::anchor_tag;
use mirror_contract::{Backup, Digest, ImageRef, Naming};
use reqwest::Method;
use rstest::rstest;
use serde_json::Value;
use testkit::registry::{DebianOptions, DebianRegistry, Registry as _};
use testkit::scripted::{Action, Fake, Image, digest_of, image, index, noise, referrer};
use testkit::{artifacts, blocking};

use crate::support::REPOSITORY;

/// Two registries, and an image of two platforms with a signature that was copied from one to the other.
struct Scene {
    upstream: Fake,
    backup: Fake,
    /// The index, its images, and the signature.
    root: Image,
    platform: Image,
    signature: Image,
}

/// The exit code and the document of a run.
struct Verified {
    code: Option<i32>,
    document: Value,
    stderr: String,
}

impl Scene {
    fn start() -> Self {
        let (upstream, backup) =
            blocking::run(async { (Fake::start().await, Fake::start().await) });
        let [first, platform] = [1, 2].map(|seed| image(seed, &[noise(seed, 3000)]));
        let root = index(&[&first, &platform]);
        let signature = referrer(&root, "a/signature", &noise(3, 100));
        for image in [&first, &platform, &signature] {
            upstream.put("shop/app", image);
        }
        upstream.put_tagged("shop/app", "v1", &root);
        let scene = Self {
            upstream,
            backup,
            root,
            platform,
            signature,
        };
        let copied = scene.command("copy", &[]).output().unwrap();
        assert!(copied.status.success(), "{copied:?}");
        scene
    }

    fn image(&self) -> String {
        format!("{}/shop/app:v1", self.upstream.host())
    }

    fn command(&self, name: &str, more: &[&str]) -> Command {
        let mut command = sidecar(name, &self.backup.host());
        command
            .args(["--insecure-registry", &self.upstream.host()])
            .args(more)
            .arg(self.image());
        command
    }

    fn verify(&self, more: &[&str]) -> Verified {
        self.backup.clear_log();
        Verified::of(
            &self
                .command("verify", more)
                .arg("--output=json")
                .output()
                .unwrap(),
        )
    }

    fn repository(&self) -> String {
        repository_of(&self.backup.host(), &self.image())
    }

    fn anchor(&self) -> String {
        let digest = self.root.digest();
        anchor_tag(&Digest::parse(digest.as_ref()).unwrap())
    }

    fn layer(&self) -> String {
        digest_of(&self.platform.blobs[1]).to_string()
    }

    fn set_blob(&self, content: Option<Bytes>) {
        let key = (self.repository(), self.layer());
        let blobs = &mut self.backup.state().blobs;
        match content {
            Some(content) => blobs.insert(key, content),
            None => blobs.remove(&key),
        };
    }

    fn set_tag(&self, tag: &str, digest: Option<String>) {
        let key = (self.repository(), tag.to_owned());
        let tags = &mut self.backup.state().tags;
        match digest {
            Some(digest) => tags.insert(key, digest),
            None => tags.remove(&key),
        };
    }

    fn set_manifest(&self, image: &Image, content: Option<&[u8]>) {
        let key = (self.repository(), image.digest().to_string());
        let manifests = &mut self.backup.state().manifests;
        match content {
            Some(content) => {
                let content = Bytes::copy_from_slice(content);
                manifests.insert(key, (image.media_type.clone(), content));
            }
            None => _ = manifests.remove(&key),
        }
    }

    /// Does this damage. Returns the kind of finding, and its object.
    fn damage(&self, damage: Damage) -> (&'static str, String) {
        let layer = self.platform.blobs[1].clone();
        let (platform, root) = (self.platform.digest(), self.root.digest());
        match damage {
            Damage::Layer => self.set_blob(None),
            Damage::Size => self.set_blob(Some(layer.slice(..100))),
            Damage::Content => self.set_blob(Some(noise(99, layer.len()))),
            Damage::Platform => self.set_manifest(&self.platform, None),
            Damage::Manifest => {
                let other = self.platform.manifest.to_vec();
                let other = String::from_utf8(other).unwrap().replace('\t', " ");
                self.set_manifest(&self.platform, Some(other.as_bytes()));
            }
            Damage::Garbage => self.set_manifest(&self.platform, Some(b"\0\0")),
            Damage::Root => self.set_manifest(&self.root, None),
            Damage::Signature => {
                let content = digest_of(&self.signature.blobs[1]);
                self.backup.lose_blob(&self.repository(), &content);
            }
            Damage::Tag => self.set_tag("v1", None),
            Damage::Anchor => self.set_tag(&self.anchor(), None),
            Damage::MovedAnchor => self.set_tag(&self.anchor(), Some(platform.to_string())),
        }
        match damage {
            Damage::Layer => ("missing_blob", self.layer()),
            Damage::Size => ("wrong_size", self.layer()),
            Damage::Content => ("wrong_digest", self.layer()),
            Damage::Platform => ("missing_manifest", platform.to_string()),
            Damage::Manifest | Damage::Garbage => ("wrong_digest", platform.to_string()),
            Damage::Signature => {
                let content = digest_of(&self.signature.blobs[1]);
                ("missing_blob", content.to_string())
            }
            Damage::Root | Damage::Tag => ("missing_copy", "v1".to_owned()),
            Damage::Anchor => ("missing_anchor", self.anchor()),
            Damage::MovedAnchor => {
                assert_ne!(platform, root);
                ("moved_tag", self.anchor())
            }
        }
    }

    /// Asserts that the last run only read.
    fn assert_read_only(&self) {
        let log = self.backup.log();
        assert!(!log.is_empty());
        let is_read = |method: &Method| [Method::GET, Method::HEAD].contains(method);
        let written: Vec<_> = log.iter().filter(|entry| !is_read(&entry.method)).collect();
        assert!(written.is_empty(), "{written:?}");
    }
}

impl Verified {
    fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            document: serde_json::from_slice(&output.stdout).unwrap_or_default(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The kinds and objects of all findings.
    fn findings(&self) -> Vec<(&str, &str)> {
        let findings = self.document["images"][0]["findings"].as_array();
        let findings = findings.into_iter().flatten().map(|finding| {
            assert_ne!(finding["next_step"], "", "{finding}");
            (text(&finding["kind"]), text(&finding["object"]))
        });
        findings.collect()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn sidecar(name: &str, backup: &str) -> Command {
    let mut command = Command::new(artifacts::sidecar_program().unwrap());
    command
        .env_clear()
        .args([name, "--registry", backup, "--repository", REPOSITORY])
        .args(["--insecure-registry", backup]);
    command
}

fn repository_of(backup: &str, image: &str) -> String {
    let backup = Backup::new(backup, REPOSITORY, Naming::Flat).unwrap();
    let image = ImageRef::parse(image).unwrap().into_owned();
    backup.target(&image).unwrap().path().to_owned()
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Layer,
    Size,
    Content,
    Platform,
    Manifest,
    Garbage,
    Root,
    Signature,
    Tag,
    Anchor,
    MovedAnchor,
}

#[rstest]
fn damage_is_found_without_a_write_and_repaired(
    #[values(
        Damage::Layer,
        Damage::Size,
        Damage::Content,
        Damage::Platform,
        Damage::Manifest,
        Damage::Garbage,
        Damage::Root,
        Damage::Signature,
        Damage::Tag,
        Damage::Anchor,
        Damage::MovedAnchor
    )]
    damage: Damage,
) {
    let scene = Scene::start();
    let good = scene.verify(&["--deep"]);
    assert_eq!(
        (good.code, good.findings()),
        (Some(0), vec![]),
        "{}",
        good.stderr
    );
    let (kind, object) = scene.damage(damage);
    // Wrong content of the right size is only visible when it is read.
    let deep: &[&str] = match damage {
        Damage::Content => &["--deep"],
        _ => &[],
    };
    let found = scene.verify(deep);
    assert_eq!(
        found.findings(),
        [(kind, object.as_str())],
        "{}",
        found.stderr
    );
    assert_eq!(found.code, Some(2));
    scene.assert_read_only();
    let offline = scene.verify(&[deep, &["--offline"]].concat());
    assert_eq!(offline.findings(), [(kind, object.as_str())]);

    let repaired = scene.verify(&[deep, &["--repair"]].concat());
    assert_eq!(repaired.code, Some(0), "{}", repaired.document);
    assert_eq!(repaired.document["images"][0]["result"], "repaired");
    let again = scene.verify(&["--deep"]);
    assert_eq!((again.code, again.findings()), (Some(0), vec![]));
}

/// A registry that redirects each HEAD, or believes an index in memory, claims to have what it lost.
#[test]
fn a_claim_without_the_content_is_seen_by_reading() {
    let scene = Scene::start();
    scene.set_blob(None);
    let path = format!("/blobs/{}", scene.layer());
    let claim = Action::Status(307, vec![("location", "/elsewhere".into())], "");
    scene.backup.fault(Method::HEAD, &path, usize::MAX, claim);
    assert_eq!(scene.verify(&[]).code, Some(0));
    let deep = scene.verify(&["--deep"]);
    let layer = scene.layer();
    assert_eq!(deep.findings(), [("missing_blob", layer.as_str())]);
    let repaired = scene.verify(&["--deep", "--repair"]);
    assert_eq!(repaired.code, Some(0), "{}", repaired.document);
    scene.backup.forget_faults();
    assert_eq!(scene.verify(&["--deep"]).code, Some(0));
}

/// Uploads of content that a registry believes to have are skipped by some: the report says so.
#[test]
fn a_registry_that_skips_the_upload_is_reported() {
    let scene = Scene::start();
    scene.damage(Damage::Content);
    let skipped = Action::Status(201, vec![("location", "/v2/x".into())], "");
    let uploads = "/blobs/uploads/";
    scene
        .backup
        .fault(Method::PUT, uploads, usize::MAX, skipped);
    let repaired = scene.verify(&["--deep", "--repair"]);
    assert_eq!(repaired.code, Some(2), "{}", repaired.stderr);
    let error = repaired.document["images"][0]["repair_error"].as_str();
    assert!(error.unwrap().contains("skips uploads"), "{error:?}");
}

#[test]
fn drift_and_last_copies_are_notices() {
    let scene = Scene::start();
    let newer = image(7, &[noise(7, 50)]);
    scene.upstream.put_tagged("shop/app", "v1", &newer);
    let drift = scene.verify(&[]);
    let root = scene.root.digest().to_string();
    assert_eq!(drift.findings(), [("drift", root.as_str())]);
    assert_eq!(drift.code, Some(0));
    // The original still has the digest, so that the copy can be repaired, and its tag stays.
    scene.damage(Damage::Layer);
    let repaired = scene.verify(&["--repair"]);
    assert_eq!(repaired.code, Some(0), "{}", repaired.document);
    assert_eq!(
        scene.backup.tag(&scene.repository(), "v1"),
        Some(root.clone())
    );

    scene.upstream.state().tags.clear();
    scene.upstream.state().manifests.clear();
    let last = scene.verify(&[]);
    assert_eq!(
        (last.code, last.findings()),
        (Some(0), vec![("last_copy", &*root)])
    );
    scene.damage(Damage::Layer);
    let refused = scene.verify(&["--repair"]);
    let layer = scene.layer();
    assert_eq!(
        (refused.code, refused.findings()),
        (Some(2), vec![("missing_blob", &*layer)])
    );
    let error = refused.document["images"][0]["repair_error"].as_str();
    assert!(error.unwrap().contains("the original is gone"), "{error:?}");
}

/// A part that the original lacks as well is none that a repair could bring.
#[test]
fn a_copy_is_as_complete_as_its_original() {
    let scene = Scene::start();
    scene.damage(Damage::Platform);
    let key = ("shop/app".to_owned(), scene.platform.digest().to_string());
    scene.upstream.state().manifests.remove(&key);
    let found = scene.verify(&[]);
    let platform = scene.platform.digest().to_string();
    assert_eq!(
        found.findings(),
        [("incomplete_original", platform.as_str())]
    );
    assert_eq!(found.code, Some(0));
}

/// Somebody pushed another image under the tag of a copy.
#[rstest]
#[case::complete(false)]
#[case::unusable(true)]
fn a_moved_tag_is_put_back_only_if_nothing_usable_is_lost(#[case] is_unusable: bool) {
    let scene = Scene::start();
    let other = image(8, &[noise(8, 60)]);
    let repository = scene.repository();
    scene.backup.put_tagged(&repository, "v1", &other);
    if is_unusable {
        scene
            .backup
            .lose_blob(&repository, &digest_of(&other.blobs[1]));
    }
    let found = scene.verify(&[]);
    assert!(
        found.findings().contains(&("moved_tag", "v1")),
        "{}",
        found.document
    );
    assert_eq!(found.code, Some(2));
    let repaired = scene.verify(&["--repair"]);
    let (code, digest) = if is_unusable {
        (Some(0), scene.root.digest())
    } else {
        (Some(2), other.digest())
    };
    assert_eq!(repaired.code, code, "{}", repaired.document);
    assert_eq!(
        scene.backup.tag(&repository, "v1"),
        Some(digest.to_string())
    );
}

/// Its own errors are one sentence and another exit code.
#[test]
fn a_registry_that_cannot_be_believed_is_an_error() {
    let scene = Scene::start();
    let all = sidecar("verify", &scene.backup.host())
        .arg("--all")
        .output()
        .unwrap();
    let all = Verified::of(&all);
    assert_eq!(all.code, Some(1));
    assert!(
        all.stderr.contains("does not list its repositories"),
        "{}",
        all.stderr
    );
    for action in [
        Action::Status(
            401,
            vec![("www-authenticate", "Basic realm=\"x\"".into())],
            "",
        ),
        Action::Status(200, vec![("content-type", "text/html".into())], "<html>"),
        Action::Reset,
    ] {
        for method in [Method::GET, Method::HEAD] {
            scene
                .backup
                .fault(method, "/v2/", usize::MAX, action.clone());
        }
        let run = scene.verify(&[]);
        assert_eq!(
            (run.code, run.document),
            (Some(1), Value::Null),
            "{}",
            run.stderr
        );
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
        scene.backup.forget_faults();
    }
}

/// The file of a blob in the storage of docker-registry.
fn stored(storage: &Path, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").unwrap();
    let blobs = storage.join("docker/registry/v2/blobs/sha256");
    blobs.join(&hex[..2]).join(hex).join("data")
}

/// What happens to files of a real registry.
#[test]
#[allow(clippy::print_stderr, reason = "so that nobody counts it as passed")]
fn lost_and_changed_files_of_a_registry_are_found() {
    if !DebianRegistry::is_installed() {
        eprintln!("SKIPPED: docker-registry is not installed");
        return;
    }
    let storage = tempfile::tempdir().unwrap();
    let options = DebianOptions {
        storage: Some(storage.path().to_owned()),
        ..DebianOptions::default()
    };
    let mut backup = DebianRegistry::start_with(options).unwrap();
    let upstream = blocking::run(Fake::start());
    let content = image(1, &[noise(1, 3000), noise(2, 3000)]);
    upstream.put_tagged("shop/app", "v1", &content);
    let name = format!("{}/shop/app:v1", upstream.host());
    let run = |backup: &DebianRegistry, command: &str, more: &[&str]| {
        let mut command = sidecar(command, &backup.address());
        command.args(["--insecure-registry", &upstream.host()]);
        let output = command.args(more).arg(&name).arg("--output=json").output();
        Verified::of(&output.unwrap())
    };
    let empty = sidecar("verify", &backup.address()).arg("--all").output();
    let empty = Verified::of(&empty.unwrap());
    assert_eq!(empty.code, Some(1));
    assert!(
        empty.stderr.contains("lists no repository"),
        "{}",
        empty.stderr
    );
    assert_eq!(run(&backup, "copy", &[]).code, Some(0));
    let all = sidecar("verify", &backup.address())
        .args(["--all", "--deep", "--offline", "--output=json"])
        .output();
    let all = Verified::of(&all.unwrap());
    assert_eq!(all.document["summary"]["protected"], 1, "{}", all.stderr);

    let [lost, changed] = [1, 2].map(|layer| digest_of(&content.blobs[layer]).to_string());
    fs::remove_file(stored(storage.path(), &lost)).unwrap();
    fs::write(stored(storage.path(), &changed), noise(9, 3000)).unwrap();
    // Whatever it remembers of its files is gone.
    backup.restart().unwrap();
    let mut expected = vec![("missing_blob", &*lost), ("wrong_digest", &*changed)];
    expected.sort_by_key(|(_, digest)| *digest);
    let found = run(&backup, "verify", &["--deep"]);
    assert_eq!(
        (found.code, found.findings()),
        (Some(2), expected),
        "{}",
        found.stderr
    );

    // The lost file comes back; for the other one docker-registry skips the upload.
    let repaired = run(&backup, "verify", &["--deep", "--repair"]);
    assert_eq!(repaired.code, Some(2));
    let image = &repaired.document["images"][0];
    assert!(
        image["repair_error"]
            .as_str()
            .unwrap()
            .contains("skips uploads"),
        "{image}"
    );
    assert!(stored(storage.path(), &lost).exists());
    fs::remove_file(stored(storage.path(), &changed)).unwrap();
    backup.restart().unwrap();
    assert_eq!(
        run(&backup, "verify", &["--deep", "--repair"]).code,
        Some(0)
    );
    let again = run(&backup, "verify", &["--deep"]);
    assert_eq!(
        (again.code, again.findings()),
        (Some(0), vec![]),
        "{}",
        again.stderr
    );
}
