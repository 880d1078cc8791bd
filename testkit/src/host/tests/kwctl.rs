//! The same guests in the real host, where there is a kwctl: its answers and ours must be equal.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::guest::{Step, policy};
use crate::fixtures;
use crate::host::PolicyHost;
use crate::image::Image;
use crate::registry::{Credential, EmbeddedOptions, EmbeddedRegistry, Registry};
use crate::tls::Tls;

/// What `kwctl annotate` wants to know.
const METADATA: &str = r#"
rules: [{apiGroups: ["*"], apiVersions: ["*"], resources: ["*"], operations: ["CREATE"]}]
mutating: true
executionMode: kubewarden-wapc
annotations: {io.kubewarden.policy.title: guest}
"#;

/// A trust root that trusts nobody.
const NO_SIGSTORE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../e2e-tests/fixtures/kwctl/no-sigstore.json"
);

/// The real host, with the sources and the docker config that our host has too.
struct Kwctl {
    program: PathBuf,
    folder: TempDir,
}

impl Kwctl {
    fn find(registry: &EmbeddedRegistry) -> Option<Self> {
        let kwctl = Self {
            program: program()?,
            folder: TempDir::new().unwrap(),
        };
        let host = registry.localhost();
        let Credential { user, password } = registry.credential().unwrap();
        let auth = STANDARD.encode(format!("{user}:{password}"));
        let ca = registry.ca_pem().unwrap();
        let sources = json!({"source_authorities": {&host: [{"type": "Data", "data": ca}]}});
        kwctl.write("sources.yml", &sources.to_string());
        kwctl.write(
            "config.json",
            &json!({"auths": {host: {"auth": auth}}}).to_string(),
        );
        kwctl.write("metadata.yml", METADATA);
        kwctl.write("README.md", "a guest");
        Some(kwctl)
    }

    /// The response of the real host.
    fn evaluate(&self, wasm: &[u8], request: &Value) -> Value {
        fs::write(self.path("plain.wasm"), wasm).unwrap();
        self.write("request.json", &request.to_string());
        self.run(&[
            "annotate",
            "-m",
            "metadata.yml",
            "-u",
            "README.md",
            "-o",
            "policy.wasm",
            "plain.wasm",
        ]);
        let trust_root = format!("--sigstore-trust-config={NO_SIGSTORE}");
        let output = self.run(&[
            "run",
            // Else it looks for that of Sigstore in the internet, which takes a second where there is none.
            &trust_root,
            "--settings-json",
            "{}",
            "--request-path",
            "request.json",
            "--sources-path",
            "sources.yml",
            "--docker-config-json-path",
            ".",
            "policy.wasm",
        ]);
        serde_json::from_str(output.trim()).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = Command::new(&self.program)
            .args(arguments)
            .current_dir(self.folder.path())
            .env("RUST_BACKTRACE", "0")
            // What a user of this machine configured must not matter.
            .env("HOME", self.folder.path())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kwctl {arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(self.folder.path()).join(name)
    }
}

/// What `KWCTL` names, or else `kwctl`; a name without a path is looked for on the `PATH`.
fn program() -> Option<PathBuf> {
    let named = std::env::var_os("KWCTL").filter(|name| !name.is_empty());
    let name = PathBuf::from(named.unwrap_or_else(|| "kwctl".into()));
    if name.components().count() > 1 {
        return Some(name);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(&name))
        .find(|program| program.is_file())
}

/// Guests that show all that a guest can see of its host.
fn guests(registry: &str, object: &Value) -> Vec<Vec<Step>> {
    let ask = |operation: &'static str, image: &str| {
        Step::Call("kubewarden", "oci", operation, json!(image).to_string())
    };
    let mut mutated = object.clone();
    mutated["spec"]["containers"][0]["image"] = json!("another");
    let verdict = json!({"accepted": true, "mutated_object": mutated, "warnings": ["w"]});
    let refusal = json!({"accepted": false, "message": "no", "code": 403});
    let mut guests = vec![
        vec![Step::FailWithRequest],
        vec![Step::Respond(verdict.to_string())],
        vec![Step::Respond(refusal.to_string())],
        vec![Step::Respond("nonsense".to_owned())],
        vec![
            Step::Call("kubewarden", "http", "get", String::new()),
            Step::FailWithHostError,
        ],
        vec![
            Step::Call("kubewarden", "oci", "v1/oci_manifest", "5".to_owned()),
            Step::FailWithHostError,
        ],
    ];
    for operation in ["v1/oci_manifest", "v1/manifest_digest"] {
        let found = ask(operation, &format!("{registry}/a/b:1"));
        guests.push(vec![found, Step::FailWithHostResponse]);
        for image in [
            format!("{registry}/a/b:gone"),
            format!("{registry}/UPPER:1"),
            "localhost:1/a/b:1".to_owned(),
        ] {
            guests.push(vec![ask(operation, &image), Step::FailWithHostError]);
        }
    }
    guests
}

/// Backtraces depend on the environment.
fn without_backtrace(response: &mut Value) {
    if let Some(Value::String(message)) = response.pointer_mut("/status/message")
        && let Some(end) = message.find("\n\nStack backtrace:")
    {
        message.truncate(end);
    }
}

#[test]
fn the_real_host_answers_the_same() {
    let registry = EmbeddedRegistry::start(EmbeddedOptions {
        credential: Some(Credential::new("user", "password")),
        tls: Some(Tls::generate().unwrap()),
    })
    .unwrap();
    let Some(kwctl) = Kwctl::find(&registry) else {
        // Past the test runner, which would swallow it.
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: there is no kwctl (KWCTL names one), the test host is compared with nothing"
        );
        return;
    };
    let name = registry.localhost();
    Image::index(1)
        .push(&registry.client(), "a/b", "1")
        .unwrap();
    let request = &fixtures::load("pod-create")["request"];
    for steps in guests(&name, &request["object"]) {
        let wasm = wat::parse_str(policy(&steps)).unwrap();
        let host = PolicyHost::builder(wasm.clone())
            .source_authority(&name, registry.ca_pem().unwrap())
            .credential(&name, "user", "password")
            .build()
            .unwrap();
        let response = host.evaluate(request, &json!({})).unwrap().response;
        let mut ours = serde_json::to_value(response).unwrap();
        without_backtrace(&mut ours);
        assert_eq!(ours, kwctl.evaluate(&wasm, request));
    }
}
