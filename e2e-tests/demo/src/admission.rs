//! Where the policy runs: in the tests' host, or in the real kwctl.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::artifacts;
use testkit::host::{AdmissionResponse, PolicyHost};
use testkit::sidecar::Sidecar;

/// The policy with its annotations, which kwctl wants.
const ANNOTATED_VARIABLE: &str = "IMAGE_MIRROR_ANNOTATED_WASM";

pub struct Admission {
    settings: Value,
    runner: Runner,
}

enum Runner {
    Host(Box<PolicyHost>),
    Kwctl {
        program: String,
        module: PathBuf,
        /// Holds sources.yml, config.json and the requests.
        folder: TempDir,
    },
}

impl Admission {
    /// `backup` is where copies are, as registry and repository.
    pub fn new(sidecar: &Sidecar, backup: &str, kwctl: Option<&str>) -> anyhow::Result<Self> {
        let runner = match kwctl {
            None => {
                let module = artifacts::policy_module()?;
                let host = PolicyHost::builder(std::fs::read(module)?)
                    .allow_capabilities(["oci/v1/oci_manifest"])
                    .interpreted()
                    .epoch_ticks(10);
                Runner::Host(Box::new(sidecar.trusted_by(host).build()?))
            }
            Some(program) => kwctl_runner(sidecar, program)?,
        };
        Ok(Self {
            // More time than the default, for machines that are busy building something else.
            settings: json!({
                "sidecar": sidecar.facade(), "backups": [backup], "timeBudgetMs": 5000
            }),
            runner,
        })
    }

    pub fn name(&self) -> String {
        match &self.runner {
            Runner::Host(_) => "a test host that behaves like Kubewarden's policy server".into(),
            Runner::Kwctl { program, .. } => format!("the real kwctl ({program})"),
        }
    }

    pub fn admit(&self, request: &Value) -> anyhow::Result<AdmissionResponse> {
        match &self.runner {
            Runner::Host(host) => Ok(host.evaluate(request, &self.settings)?.response),
            Runner::Kwctl {
                program,
                module,
                folder,
            } => {
                let file = folder.path().join("request.json");
                std::fs::write(&file, request.to_string())?;
                let output = Command::new(program)
                    .arg("run")
                    .arg(module)
                    .arg("--request-path")
                    .arg(&file)
                    .arg("--settings-json")
                    .arg(self.settings.to_string())
                    .arg("--sources-path")
                    .arg(folder.path().join("sources.yml"))
                    .arg("--docker-config-json-path")
                    .arg(folder.path())
                    .arg("--allowed-host-capabilities")
                    .arg("oci/v1/oci_manifest")
                    .output()
                    .with_context(|| format!("cannot run {program}"))?;
                let log = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "{program} run failed: {log}");
                serde_json::from_slice(&output.stdout)
                    .with_context(|| format!("{program} gave no admission response: {log}"))
            }
        }
    }
}

/// The files that a user of kwctl writes by hand: which authority to trust, and which credentials to present.
fn kwctl_runner(sidecar: &Sidecar, program: &str) -> anyhow::Result<Runner> {
    let Some(module) = std::env::var_os(ANNOTATED_VARIABLE) else {
        bail!(
            "kwctl runs annotated policies only: make annotated-policy.wasm, and name it in {ANNOTATED_VARIABLE}"
        );
    };
    let folder = tempfile::tempdir()?;
    let facade = sidecar.facade();
    let sources = json!({
        "source_authorities": { &facade: [{ "type": "Data", "data": sidecar.tls().ca_pem() }] }
    });
    // JSON is YAML.
    std::fs::write(folder.path().join("sources.yml"), sources.to_string())?;
    let credential = sidecar.facade_credential();
    let auth = STANDARD.encode(format!("{}:{}", credential.user, credential.password));
    let config = json!({ "auths": { &facade: { "auth": auth } } });
    std::fs::write(folder.path().join("config.json"), config.to_string())?;
    Ok(Runner::Kwctl {
        program: program.to_owned(),
        module: module.into(),
        folder,
    })
}

/// The request that an API server sends when the Deployment is created.
pub fn admission_request(object: &Value) -> anyhow::Result<Value> {
    let kind = object["kind"].as_str();
    ensure!(
        kind == Some("Deployment"),
        "the demo shows a Deployment, not {kind:?}"
    );
    Ok(json!({
        "uid": "1299d386-525b-4032-98ae-1949f69f9cfc",
        "kind": { "group": "apps", "version": "v1", "kind": "Deployment" },
        "resource": { "group": "apps", "version": "v1", "resource": "deployments" },
        "name": object["metadata"]["name"],
        "namespace": object["metadata"]["namespace"],
        "operation": "CREATE",
        "userInfo": { "username": "demo" },
        "object": object,
        "dryRun": false,
    }))
}
