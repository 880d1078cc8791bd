//! A user with RBAC rules: a `ServiceAccount` with a token, as a client and as a kubeconfig.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::namespace::create_global;
use super::{Cluster, call, client};

/// Seconds; longer than any test, shorter than what the API server refuses.
const TOKEN_LIFE: i64 = 3600;

/// A `ServiceAccount` of a [`Cluster`].
pub struct Account {
    user: String,
    client: Client,
    kubeconfig: PathBuf,
}

impl Account {
    pub(super) fn create(
        cluster: &Cluster,
        namespace: &str,
        name: &str,
        rules: &[PolicyRule],
    ) -> anyhow::Result<Self> {
        let admin = cluster.admin();
        let accounts = Api::<ServiceAccount>::namespaced(admin.clone(), namespace);
        let account = ServiceAccount {
            metadata: kube::api::ObjectMeta {
                name: Some(name.to_owned()),
                ..Default::default()
            },
            ..ServiceAccount::default()
        };
        call(accounts.create(&PostParams::default(), &account))?;
        let role = format!("{namespace}-{name}");
        create_global(
            &admin,
            &json!({
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRole",
                "metadata": { "name": role },
                "rules": rules,
            }),
        )?;
        create_global(
            &admin,
            &json!({
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": { "name": role },
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
                "subjects": [{ "kind": "ServiceAccount", "namespace": namespace, "name": name }],
            }),
        )?;
        let token = token(&accounts, name)?;
        let kubeconfig = cluster.folder.path().join(format!("{role}.kubeconfig"));
        write_kubeconfig(&kubeconfig, cluster, namespace, &token)?;
        Ok(Self {
            user: format!("system:serviceaccount:{namespace}:{name}"),
            client: client(cluster.config(&token)?)?,
            kubeconfig,
        })
    }

    /// The name by which RBAC and the audit log know it.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// A client that may do what the rules say.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A file with server, authority and token, for a process that takes `KUBECONFIG`.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

fn token(accounts: &Api<ServiceAccount>, name: &str) -> anyhow::Result<String> {
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(TOKEN_LIFE),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let answer = call(accounts.create_token_request(name, &PostParams::default(), &request))?;
    let status = answer.status.context("the API server gave no token")?;
    Ok(status.token)
}

fn write_kubeconfig(
    file: &Path,
    cluster: &Cluster,
    namespace: &str,
    token: &str,
) -> anyhow::Result<()> {
    let config: Value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [
            { "name": "test", "context": { "cluster": "test", "user": "test", "namespace": namespace } },
        ],
        "clusters": [{ "name": "test", "cluster": {
            "server": format!("https://127.0.0.1:{}", cluster.port),
            "certificate-authority-data": STANDARD.encode(cluster.tls.ca_pem()),
        } }],
        "users": [{ "name": "test", "user": { "token": token } }],
    });
    // JSON is YAML.
    fs::write(file, config.to_string())?;
    Ok(())
}
