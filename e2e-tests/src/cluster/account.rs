//! A user with RBAC rules: a `ServiceAccount` with a token, as a client and as a kubeconfig.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1 as rbac;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::access::{Access, call};
use super::namespace::create_global;
use super::rights::Rights;
use super::site::Site;

/// Seconds; longer than any test, shorter than what the API server refuses.
const TOKEN_LIFE: i64 = 3600;

/// A `ServiceAccount` of a [`Cluster`].
pub struct Account {
    user: String,
    client: Client,
    kubeconfig: PathBuf,
    namespace: String,
    access: Access,
}

impl Account {
    pub(super) fn create(
        site: &Site,
        namespace: &str,
        name: &str,
        rights: &Rights,
    ) -> anyhow::Result<Self> {
        let admin = site.admin()?;
        let accounts = Api::<ServiceAccount>::namespaced(admin.clone(), namespace);
        let account = ServiceAccount {
            metadata: named(name),
            ..ServiceAccount::default()
        };
        call(accounts.create(&PostParams::default(), &account))?;
        let role = format!("{namespace}-{name}");
        let subject = json!({ "kind": "ServiceAccount", "namespace": namespace, "name": name });
        create_global(
            &admin,
            &json!({
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRole",
                "metadata": { "name": role },
                "rules": rights.everywhere,
            }),
        )?;
        create_global(
            &admin,
            &json!({
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": { "name": role },
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
                "subjects": [subject],
            }),
        )?;
        let at_home = rbac::Role {
            metadata: named(name),
            rules: Some(rights.at_home.clone()),
        };
        let roles = Api::<rbac::Role>::namespaced(admin.clone(), namespace);
        call(roles.create(&PostParams::default(), &at_home))?;
        let binding = rbac::RoleBinding {
            metadata: named(name),
            role_ref: rbac::RoleRef {
                api_group: "rbac.authorization.k8s.io".to_owned(),
                kind: "Role".to_owned(),
                name: name.to_owned(),
            },
            subjects: Some(vec![serde_json::from_value(subject)?]),
        };
        let bindings = Api::<rbac::RoleBinding>::namespaced(admin, namespace);
        call(bindings.create(&PostParams::default(), &binding))?;
        let token = token(&accounts, name)?;
        let access = site.access(&token);
        let account = Self {
            user: format!("system:serviceaccount:{namespace}:{name}"),
            client: access.client()?,
            kubeconfig: site.folder().join(format!("{role}.kubeconfig")),
            namespace: namespace.to_owned(),
            access,
        };
        account.write_kubeconfig(&account.kubeconfig, &account.access)?;
        Ok(account)
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

    /// The same for a process that reaches the API server through a proxy on loopback.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kubeconfig_through(&self, proxy: SocketAddr) -> anyhow::Result<PathBuf> {
        let file = self
            .kubeconfig
            .with_extension(format!("{}.kubeconfig", proxy.port()));
        let access = Access {
            url: format!("https://{proxy}"),
            ..self.access.clone()
        };
        self.write_kubeconfig(&file, &access)?;
        Ok(file)
    }

    fn write_kubeconfig(&self, file: &Path, access: &Access) -> anyhow::Result<()> {
        fs::write(file, access.kubeconfig(&self.namespace).to_string())?;
        Ok(())
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

fn named(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}
