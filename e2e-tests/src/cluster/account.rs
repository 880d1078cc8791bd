//! A user with RBAC rules: a `ServiceAccount` with a token, as a client and as a kubeconfig.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::access::call;
use super::namespace::create_global;
use super::servers::Servers;

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
        servers: &Servers,
        namespace: &str,
        name: &str,
        rules: &[PolicyRule],
    ) -> anyhow::Result<Self> {
        let admin = servers.admin().client()?;
        let accounts = Api::<ServiceAccount>::namespaced(admin.clone(), namespace);
        let account = ServiceAccount {
            metadata: ObjectMeta {
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
        let kubeconfig = servers.folder().join(format!("{role}.kubeconfig"));
        let access = servers.access(&token);
        fs::write(&kubeconfig, access.kubeconfig(namespace).to_string())?;
        Ok(Self {
            user: format!("system:serviceaccount:{namespace}:{name}"),
            client: access.client()?,
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
