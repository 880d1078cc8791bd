//! A cluster that was there before the tests, with nodes and controllers perhaps.
//!
//! Tests leave namespaces, roles and webhooks behind when they are killed. All of them have [`LABEL`], and the next run
//! removes what earlier ones left.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ClusterResourceScope;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{DeleteParams, ListParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use super::access::{Access, call};
use super::programs::variable;
use testkit::blocking;
use testkit::tls::install_crypto_provider;

/// A kubeconfig of a cluster to run the tests on, with all rights there.
pub const KUBECONFIG_VARIABLE: &str = "E2E_KUBECONFIG";
/// The name or address by which that cluster reaches this machine, for its webhook. Without it the webhook is registered
/// on 127.0.0.1, which only an API server on this very machine reaches, or in its host network.
pub const WEBHOOK_HOST_VARIABLE: &str = "WEBHOOK_HOST";
/// On everything global that the tests make.
pub(super) const LABEL: (&str, &str) = ("app.kubernetes.io/part-of", "image-mirror-tests");

pub(super) struct External {
    admin: Client,
    url: String,
    ca_pem: String,
    folder: TempDir,
    run: String,
}

/// The kubeconfig of a cluster to use, if one is named.
pub(super) fn kubeconfig() -> Option<PathBuf> {
    variable(KUBECONFIG_VARIABLE).map(PathBuf::from)
}

impl External {
    /// Connects, and removes what earlier runs left.
    pub fn find(kubeconfig: &Path) -> anyhow::Result<Self> {
        install_crypto_provider();
        let context = || format!("{KUBECONFIG_VARIABLE}={}", kubeconfig.display());
        let config = Kubeconfig::read_from(kubeconfig).with_context(context)?;
        let options = KubeConfigOptions::default();
        let mut config = blocking::run(Config::from_custom_kubeconfig(config, &options))
            .with_context(context)?;
        config.default_retry = false;
        let url = config.cluster_url.to_string();
        let authorities = config.root_cert.clone().unwrap_or_default();
        ensure!(
            !authorities.is_empty(),
            "{} has no certificate-authority, which the sidecar needs",
            kubeconfig.display()
        );
        let external = Self {
            admin: blocking::run(async { Client::try_from(config) })?,
            url: url.trim_end_matches('/').to_owned(),
            ca_pem: authorities.iter().map(|der| pem(der)).collect(),
            folder: tempfile::tempdir()?,
            run: format!("{:x}", std::process::id()),
        };
        external
            .clean()
            .context("removing what earlier runs left")?;
        Ok(external)
    }

    /// A client with the rights of the kubeconfig.
    pub fn admin(&self) -> Client {
        self.admin.clone()
    }

    /// How to reach it with a token.
    pub fn access(&self, token: &str) -> Access {
        Access {
            url: self.url.clone(),
            ca_pem: self.ca_pem.clone(),
            token: token.to_owned(),
        }
    }

    /// A folder that goes when this does.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What tells the names of this run from those of others.
    pub fn run(&self) -> &str {
        &self.run
    }

    fn clean(&self) -> anyhow::Result<()> {
        // First who would refuse the rest.
        self.delete_all::<MutatingWebhookConfiguration>()?;
        self.delete_all::<ClusterRoleBinding>()?;
        self.delete_all::<ClusterRole>()?;
        self.delete_all::<Namespace>()
    }

    fn delete_all<K>(&self) -> anyhow::Result<()>
    where
        K: Resource<Scope = ClusterResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        let api = Api::<K>::all(self.admin());
        let (key, value) = LABEL;
        // Namespaces cannot be deleted all at once.
        let list = call(api.list(&ListParams::default().labels(&format!("{key}={value}"))))?;
        for object in list {
            let name = object.meta().name.clone().unwrap_or_default();
            match call(api.delete(&name, &DeleteParams::default())) {
                Ok(_) => {}
                // Somebody else was faster, or it is on its way.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn pem(der: &[u8]) -> String {
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        STANDARD.encode(der)
    )
}
