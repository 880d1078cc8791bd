//! `plan`: what it says about charts, registries and hostile files, and that it changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mirror_contract::ImageRef;
use rstest::rstest;
use serde_json::{Value, json};
use testkit::artifacts;
use testkit::image::Image;
use testkit::registry::{Credential, Registry, start_registry, start_registry_with};

use crate::memory;

fn program() -> Command {
    let mut command = Command::new(artifacts::sidecar_program().unwrap());
    command.env_clear().arg("plan");
    command
}

/// The plan for these files, without registries.
fn offline(files: &[&Path]) -> (Value, Output) {
    let mut command = program();
    command.args([
        "--offline",
        "--output=json",
        "--registry=ghcr.io",
        "--repository=acme",
    ]);
    for file in files {
        command.arg("-f").arg(file);
    }
    let output = command.output().unwrap();
    let plan = serde_json::from_slice(&output.stdout);
    (
        plan.unwrap_or_else(|error| panic!("{error}: {output:?}")),
        output,
    )
}

fn charts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/charts")
}

fn images(plan: &Value) -> BTreeSet<String> {
    let images = plan["images"].as_array().unwrap().iter();
    images
        .map(|image| image["image"].as_str().unwrap().to_owned())
        .collect()
}

/// What a list written by hand says, and all `image:` lines of the file, which know nothing of kinds.
#[rstest]
#[case("argo-cd")]
#[case("cert-manager")]
#[case("external-dns")]
#[case("harbor")]
#[case("ingress-nginx")]
#[case("istio")]
#[case("kube-prometheus-stack")]
#[case("loki")]
#[case("longhorn")]
#[case("postgresql")]
fn images_of_charts_are_found(#[case] chart: &str) {
    let file = charts().join(format!("{chart}.yaml"));
    let (plan, output) = offline(&[&file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let expected = std::fs::read_to_string(charts().join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    let found: Vec<_> = images(&plan).into_iter().collect();
    assert_eq!(json!(found), expected[chart]["images"]);
    let fields = plan["fields"].as_array().unwrap().iter();
    let mut fields: Vec<_> = fields
        .map(|field| {
            format!(
                "{}: {}",
                field["field"].as_str().unwrap(),
                field["image"].as_str().unwrap()
            )
        })
        .collect();
    fields.sort();
    assert_eq!(json!(fields), expected[chart]["fields"]);

    let text = std::fs::read_to_string(&file).unwrap();
    let lines = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("image:"));
    let lines = lines.map(|image| image.trim().trim_matches('"'));
    let grepped: BTreeSet<_> = lines
        .filter(|image| !image.is_empty() && !image.contains("{{") && *image != "auto")
        .map(canonical)
        .collect();
    let of_fields = fields
        .iter()
        .filter_map(|field| field.strip_prefix("spec.image: "));
    let all: BTreeSet<_> = images(&plan)
        .into_iter()
        .chain(of_fields.map(canonical))
        .collect();
    assert_eq!(all, grepped);
}

fn canonical(image: &str) -> String {
    ImageRef::parse(image)
        .unwrap()
        .without_redundant_tag()
        .to_string()
}

/// An upstream registry and a backup with a login.
struct Scene {
    upstream: Box<dyn Registry>,
    backup: Box<dyn Registry>,
    folder: tempfile::TempDir,
}

impl Scene {
    fn start() -> Self {
        Self {
            upstream: start_registry().unwrap(),
            backup: start_registry_with(Some(Credential::new("pusher", "secret word"))).unwrap(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn command(&self, command: &str) -> Command {
        let mut run = Command::new(artifacts::sidecar_program().unwrap());
        run.env_clear().arg(command).args([
            format!("--registry={}", self.backup.address()),
            "--repository=acme".to_owned(),
            "--registry-username=pusher".to_owned(),
            "--registry-password=secret word".to_owned(),
            format!("--insecure-registry={}", self.backup.address()),
            format!("--insecure-registry={}", self.upstream.localhost()),
        ]);
        run
    }

    fn push(&self, image: &Image, name: &str) -> String {
        image.push(&self.upstream.client(), name, "v1").unwrap();
        format!("{}/{name}:v1", self.upstream.localhost())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    }

    /// The plan for a manifest, and its exit code.
    fn plan(&self, manifest: &Path, arguments: &[&str]) -> (Value, i32) {
        let mut command = self.command("plan");
        command
            .arg("-f")
            .arg(manifest)
            .arg("--output=json")
            .args(arguments);
        let output = command.output().unwrap();
        let plan = serde_json::from_slice(&output.stdout);
        let plan = plan.unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let text = format!("{output:?}");
        assert!(!text.contains("secret word"), "{text}");
        (plan, output.status.code().unwrap())
    }
}

fn deployment(name: &str, namespace: &str, images: &[&str]) -> String {
    let containers = images.iter().enumerate();
    let containers: Vec<_> = containers
        .map(|(index, image)| json!({"name": format!("c{index}"), "image": image}))
        .collect();
    let template =
        json!({"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}});
    let manifest = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace},
        "spec": {"template": template},
    });
    format!("---\n{manifest}\n")
}

fn status<'p>(plan: &'p Value, image: &str) -> &'p Value {
    let images = plan["images"].as_array().unwrap();
    images.iter().find(|entry| entry["image"] == image).unwrap()
}

#[test]
fn the_plan_is_what_copies_do_and_changes_nothing() {
    let scene = Scene::start();
    let (old, new) = (Image::index(1), Image::index(2));
    let present = scene.push(&old, "team/old");
    let missing = scene.push(&new, "team/new");
    // The same layers under another name.
    let same = scene.push(&new, "team/same");
    let gone = format!("{}/team/gone:v1", scene.upstream.localhost());
    assert!(
        scene
            .command("copy")
            .arg(&present)
            .output()
            .unwrap()
            .status
            .success()
    );

    let text = deployment("web", "shop", &[&present, &missing, &same]);
    let manifest = scene.write("web.yaml", &text);
    let before = scene.backup.requests().len();
    let (plan, code) = scene.plan(&manifest, &[]);
    assert_eq!(code, 0, "{plan:#}");
    let requests = scene.backup.requests();
    let mut writes = requests.iter().skip(before);
    let is_write = |method: &str| !matches!(method, "GET" | "HEAD");
    assert!(
        !writes.any(|request| is_write(&request.method)),
        "{requests:?}"
    );

    assert_eq!(status(&plan, &present)["status"], "present");
    let entry = status(&plan, &missing);
    assert_eq!(entry["status"], "would_copy");
    assert_eq!(entry["digest"], new.digest());
    assert_eq!(entry["rule"], "default");
    assert_eq!(
        entry["users"][0],
        json!({"kind": "Deployment", "namespace": "shop", "name": "web"})
    );
    assert_eq!(entry["credentials"]["original"], "anonymous");
    assert_eq!(
        entry["credentials"]["push"],
        "--registry-username and its password"
    );
    assert!(
        !entry["platforms"].as_array().unwrap().is_empty(),
        "{entry}"
    );
    let mut blobs = BTreeMap::new();
    blobs.extend(new.blobs());
    let bytes: u64 = blobs.values().sum();
    assert_eq!(entry["bytes"], bytes);
    assert_eq!(status(&plan, &same)["bytes"], bytes);
    assert_eq!(plan["totals"]["bytes"], bytes, "shared layers count once");
    assert_eq!(plan["totals"]["would_copy"], 2);
    assert_eq!(plan["totals"]["docker_hub_reads"], 0);
    assert!(
        plan["estimate"]["basis"]
            .as_str()
            .unwrap()
            .contains("--bandwidth")
    );

    // The copy has the planned name, and is then present.
    assert!(
        scene
            .command("copy")
            .args([&missing, &same])
            .output()
            .unwrap()
            .status
            .success()
    );
    let (plan, _) = scene.plan(&manifest, &[]);
    assert_eq!(plan["totals"]["present"], 3, "{plan:#}");
    let target = status(&plan, &missing)["target"].as_str().unwrap();
    let target = target.to_owned();

    // A workload that uses the copy uses the same image.
    let copies = scene.write("copies.yaml", &deployment("web", "shop", &[&target]));
    let (plan, code) = scene.plan(&copies, &[]);
    assert_eq!((code, images(&plan)), (0, BTreeSet::from([missing])));

    // An image that does not exist, and one that was replaced.
    let manifest = scene.write("gone.yaml", &deployment("web", "shop", &[&gone, &present]));
    scene.push(&Image::index(3), "team/old");
    let (plan, code) = scene.plan(&manifest, &[]);
    assert_eq!(code, 2);
    assert_eq!(status(&plan, &present)["status"], "would_replace");
    let entry = status(&plan, &gone);
    assert_eq!(entry["status"], "not_protected");
    let reason = entry["reason"].as_str().unwrap();
    assert!(reason.contains("has no repository team/gone"), "{reason}");
    assert_eq!(entry["excluded"], false);
}

#[test]
fn rules_decide_and_are_named() {
    let scene = Scene::start();
    let cache = start_registry().unwrap();
    let image = Image::single(5);
    let (mirrored, kept) = (
        scene.push(&image, "team/app"),
        scene.push(&image, "kept/app"),
    );
    let rewritten = scene.push(&image, "cached/app");
    let uncached = scene.push(&image, "cached/other");
    image.push(&cache.client(), "hub/cached/app", "v1").unwrap();
    let host = scene.upstream.localhost();
    let settings = json!({
        "sidecar": "a.b:1",
        "excludedNamespaces": ["kube-*"],
        "rules": [
            {"images": [format!("{host}/kept/*")], "action": "keep"},
            {"images": [format!("{host}/cached/*")], "action": "rewrite", "target": format!("{}/hub", cache.localhost())},
        ],
    });
    let settings = scene.write("settings.json", &settings.to_string());
    let text = deployment("web", "shop", &[&mirrored, &kept, &rewritten, &uncached])
        + &deployment("dns", "kube-system", &[&mirrored]);
    let manifest = scene.write("web.yaml", &text);
    let settings = format!("--policy-settings={}", settings.display());
    let insecure = format!("--insecure-registry={}", cache.localhost());
    let (plan, code) = scene.plan(&manifest, &[&settings, &insecure]);
    assert_eq!(code, 2);
    let found: BTreeSet<_> = plan["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let text = |key: &str| entry[key].as_str().unwrap_or("-").to_owned();
            let namespace = entry["users"][0]["namespace"].as_str().unwrap().to_owned();
            (
                text("image"),
                namespace,
                text("action"),
                text("rule"),
                text("status"),
            )
        })
        .collect();
    let row = |image: &str, namespace: &str, action: &str, rule: &str, status: &str| {
        let [image, namespace, action, rule, status] =
            [image, namespace, action, rule, status].map(str::to_owned);
        (image, namespace, action, rule, status)
    };
    let expected = BTreeSet::from([
        row(&mirrored, "shop", "mirror", "default", "would_copy"),
        row(
            &mirrored,
            "kube-system",
            "keep",
            "excludedNamespaces",
            "not_protected",
        ),
        row(&kept, "shop", "keep", "rules[0]", "not_protected"),
        row(&rewritten, "shop", "rewrite", "rules[1]", "in_target"),
        row(&uncached, "shop", "rewrite", "rules[1]", "not_protected"),
    ]);
    assert_eq!(found, expected);

    let (plan, code) = scene.plan(&manifest, &[&settings, &insecure, "--allow-excluded"]);
    assert_eq!(code, 2, "an image is missing in the target: {plan:#}");
    let manifest = scene.write("kept.yaml", &deployment("web", "shop", &[&kept]));
    assert_eq!(scene.plan(&manifest, &[&settings]).1, 2);
    assert_eq!(scene.plan(&manifest, &[&settings, "--allow-excluded"]).1, 0);
}

/// All formats show the same, and text of manifests controls neither a terminal nor Markdown.
#[test]
fn every_format_shows_the_plan() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    let text = deployment("w|b\u{1b}[31m", "shop", &["nginx:1.27", "Not An Image"]);
    std::fs::write(&file, text).unwrap();
    let run = |format: &str| {
        let mut command = program();
        command.args(["--offline", "--registry=ghcr.io", "--repository=acme", "-f"]);
        let output = command
            .arg(&file)
            .arg(format!("--output={format}"))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let (table, markdown) = (run("table"), run("markdown"));
    for text in [&table, &markdown] {
        assert!(text.contains("docker.io/library/nginx:1.27"), "{text}");
        assert!(text.contains("not a valid image reference"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
    assert!(markdown.contains(r"w\|b"), "{markdown}");
    let json: Value = serde_json::from_str(&run("json")).unwrap();
    let yaml: Value = yaml_serde::from_str(&run("yaml")).unwrap();
    assert_eq!(json, yaml);
    assert_eq!(json["version"], 1);
}

fn many(count: usize) -> String {
    let mut text = String::new();
    for number in 0..count {
        let name = format!("web-{number}");
        text += &deployment(
            &name,
            "shop",
            &[&format!("registry.test/app-{}:1", number % 50)],
        );
    }
    text
}

fn deep_maps(depth: usize) -> String {
    let lines: Vec<_> = (0..depth).map(|depth| " ".repeat(depth) + "a:\n").collect();
    lines.concat()
}

/// Each has one sentence with its place, and the rest is planned.
#[rstest]
#[case::alias_bomb("a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n".to_owned(), "too complex")]
#[case::nesting("[".repeat(100_000), "line 2")]
#[case::deep_maps(deep_maps(200), "not YAML")]
#[case::huge_scalar(format!("a: {}", "x".repeat(5 << 20)), "longer than 4 MiB")]
#[case::tabs("a:\n\tb: 1\n".to_owned(), "line 3")]
#[case::twice("a: 1\na: 2\n".to_owned(), "duplicate")]
#[case::cut("a: [1,\n".to_owned(), "not YAML")]
#[case::control("a: \u{1}\n".to_owned(), "not YAML")]
fn hostile_documents_are_reported_and_skipped(#[case] hostile: String, #[case] words: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    std::fs::write(
        &file,
        format!(
            "---\n{hostile}\n{}",
            deployment("web", "shop", &["nginx:1.27"])
        ),
    )
    .unwrap();
    let (plan, output) = offline(&[&file]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        images(&plan),
        BTreeSet::from(["docker.io/library/nginx:1.27".to_owned()])
    );
    let problems = plan["problems"].as_array().unwrap();
    let [problem] = &problems[..] else {
        panic!("{problems:?}")
    };
    let problem = problem.as_str().unwrap();
    assert!(
        problem.contains("a.yaml, document 1 (line 2): ") && problem.contains(words),
        "{problem}"
    );
    assert!(problem.len() < 1000 && !problem.contains('\n'), "{problem}");
}

#[test]
fn bytes_that_are_no_text_and_missing_files_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    let good = deployment("web", "shop", &["nginx:1.27"]);
    let bytes = [good.as_bytes(), b"---\na: 1\nb: \xff\n", good.as_bytes()].concat();
    std::fs::write(&file, bytes).unwrap();
    let (plan, output) = offline(&[&file, Path::new("/nowhere.yaml")]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(images(&plan).len(), 1);
    let problems = plan["problems"].to_string();
    assert!(
        problems.contains("document 2 (line 4): line 5 is not UTF-8"),
        "{problems}"
    );
    assert!(
        problems.contains("/nowhere.yaml: cannot be read"),
        "{problems}"
    );
}

/// Lists, other forms of files, and folders.
#[test]
fn all_forms_of_manifests_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    };
    let pod = |image: &str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": image}]}});
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [pod("list/json:1"), pod("list/json:2")]});
    write("list.json", &serde_json::to_string_pretty(&list).unwrap());
    write(
        "lines.json",
        &format!("{}\n{}\n", pod("lines/a:1"), pod("lines/b:1")),
    );
    write("array.json", &json!([pod("array/a:1")]).to_string());
    write(
        "sub/list.yaml",
        &format!(
            "apiVersion: v1\nitems:\n- {}\n- {}\nkind: PodList\n",
            pod("list/yaml:1"),
            pod("list/yaml:2")
        ),
    );
    write(
        "sub/crlf.yml",
        "\u{feff}# comment\r\n%YAML 1.2\r\n--- # first\r\nkind: Pod\r\napiVersion: v1\r\nmetadata: {name: p}\r\nspec: {containers: [{name: a, image: 'crlf:1'}]}\r\n...\r\n---\r\n",
    );
    write(
        "sub/custom.yaml",
        "apiVersion: argoproj.io/v1alpha1\nkind: Rollout\nmetadata: {name: r}\nspec:\n  template: &t\n    spec: {containers: [{name: a, image: rollout:1}]}\n  other: {deep: [{template: *t}, {template: {spec: {containers: [{name: b, image: deep:1}]}}}]}\n",
    );
    write(
        "sub/owner.yaml",
        "apiVersion: postgresql.cnpg.io/v1\nkind: Cluster\nmetadata: {name: db}\nspec:\n  imageName: ghcr.io/cloudnative-pg/postgresql:17\n",
    );
    write("notes.txt", "image: ignored:1");
    write(".hidden/a.yaml", &pod("hidden:1").to_string());
    let (plan, output) = offline(&[folder.path()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let expected = [
        "array/a",
        "lines/a",
        "lines/b",
        "list/json:1",
        "list/json:2",
        "list/yaml:1",
        "list/yaml:2",
        "library/crlf",
        "library/deep",
        "library/rollout",
    ];
    let expected: BTreeSet<_> = expected
        .iter()
        .map(|name| {
            if name.contains(':') {
                format!("docker.io/{name}")
            } else {
                format!("docker.io/{name}:1")
            }
        })
        .collect();
    assert_eq!(images(&plan), expected);
    assert_eq!(plan["fields"][0]["field"], "spec.imageName");
}

/// Memory does not grow with the file: neither with its documents, nor with a list in one document.
#[test]
fn large_files_take_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let peak = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        let job = [
            artifacts::sidecar_program().unwrap().display().to_string(),
            "plan".to_owned(),
            "--offline".to_owned(),
            "--registry=ghcr.io".to_owned(),
            "--repository=acme".to_owned(),
            format!("-f={}", file.display()),
        ];
        let (peak, succeeded) = memory::run(&job);
        assert!(succeeded, "{name}");
        peak
    };
    let small = peak("small.yaml", &many(100));
    let documents = many(20_000);
    let padding = format!("    # {}\n", "x".repeat(600));
    let mut list = "apiVersion: v1\nitems:\n".to_owned();
    for document in documents.split("---\n").skip(1) {
        write!(list, "- {padding}  {document}").unwrap();
    }
    list.push_str("kind: List\n");
    assert!(list.len() > 12 << 20);
    let json = format!(
        "{{\"kind\": \"List\", \"items\": [{}]}}",
        documents
            .split("---\n")
            .skip(1)
            .collect::<Vec<_>>()
            .join(",")
    );
    for (name, text) in [
        ("documents.yaml", documents),
        ("list.yaml", list),
        ("list.json", json),
    ] {
        let large = peak(name, &text);
        assert!(
            large < small + (12 << 20),
            "{name}: {} KiB, and {} KiB for a small file",
            large >> 10,
            small >> 10
        );
    }
    let (plan, _) = offline(&[&folder.path().join("list.yaml")]);
    let all = plan["images"].as_array().unwrap();
    let users = all
        .iter()
        .map(|image| image["user_count"].as_u64().unwrap());
    assert_eq!((all.len(), users.sum()), (50, 20_000_u64));
}

#[rstest]
#[case::flag(&["--nonsense"], "--nonsense")]
#[case::no_backup(&["nginx"], "--registry")]
#[case::no_cluster(&["--registry=ghcr.io", "--repository=acme"], "cannot find a cluster")]
#[case::image(&["--registry=ghcr.io", "--repository=acme", "a b"], "image")]
#[case::settings(&["--registry=ghcr.io", "--repository=acme", "--policy-settings=/nowhere", "nginx"], "--policy-settings")]
fn own_errors_exit_with_1(#[case] arguments: &[&str], #[case] words: &str) {
    let output = program().args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(words), "{text}");
}
