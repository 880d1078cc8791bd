//! The files of a stage: what somebody who runs the policy in kwctl writes by hand.
//!
//! | file | for |
//! |---|---|
//! | `request.json` | an admission review whose images are upstream |
//! | `settings.json` | the policy's settings |
//! | `copies` | what the names of all copies begin with |
//! | `sources.yml` | `--sources-path`: the authority that signed the sidecar's certificate, `ca.pem` |
//! | `docker/` | `--docker-config-json-path`: a `config.json` with the facade's credential |
//! | `docker-wrong/` | the same with another password |
//! | `ready` | says that all the others are there |

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use testkit::registry::Credential;
use testkit::sidecar::Sidecar;

/// Writes all files.
pub fn lay_out(
    folder: &Path,
    sidecar: &Sidecar,
    copies: &str,
    review: &Value,
) -> anyhow::Result<()> {
    let write = |name: &str, content: String| {
        fs::write(folder.join(name), content)
            .with_context(|| format!("{name} cannot be written to {}", folder.display()))
    };
    let facade = sidecar.facade();
    // The sidecar's own file goes away with it, and who trusts it must be able to start afterwards.
    write("ca.pem", sidecar.tls().ca_pem().to_owned())?;
    let authority = json!({ "type": "Path", "path": folder.join("ca.pem") });
    let sources = json!({ "source_authorities": { &facade: [authority] } });
    let right = sidecar.facade_credential();
    let wrong = Credential::new(&right.user, "another password");
    for (name, credential) in [("docker", right), ("docker-wrong", &wrong)] {
        fs::create_dir_all(folder.join(name))?;
        let config = docker_config(&facade, credential);
        write(&format!("{name}/config.json"), config)?;
    }
    write("request.json", review.to_string())?;
    // Time for a busy machine: the budget has tests of its own.
    let settings = json!({ "sidecar": facade, "timeBudgetMs": 20_000 });
    write("settings.json", settings.to_string())?;
    write("copies", copies.to_owned())?;
    write("sources.yml", yaml_serde::to_string(&sources)?)?;
    write("ready", String::new())
}

/// Credentials in the only form that the host reads.
fn docker_config(registry: &str, Credential { user, password }: &Credential) -> String {
    let auth = STANDARD.encode(format!("{user}:{password}"));
    json!({ "auths": { registry: { "auth": auth } } }).to_string()
}
