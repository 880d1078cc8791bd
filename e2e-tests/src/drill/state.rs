//! What is stored, and what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mirror_contract::ImageRef;
use serde_json::Value;

use super::estate::{Estate, PULL_SECRET};
use crate::manifests::{Kind, spec_of};
use testkit::fixtures::images_of;
use testkit::registry::{Credential, RegistryClient};

/// An object with images that the API server stores.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether a controller made it.
    pub is_owned: bool,
    /// The images that it names, in their order.
    pub images: Vec<String>,
    /// The pull Secrets that it names.
    pub secrets: Vec<String>,
    /// The manifest, for what is not here.
    pub object: Value,
}

impl Estate {
    /// All objects with images in the namespaces of the plan.
    ///
    /// # Errors
    /// What the API server answers.
    pub fn stored(&self) -> anyhow::Result<Vec<Stored>> {
        let mut stored = Vec::new();
        for kind in Kind::ALL {
            let objects = self.list(kind.api_version(self.batch), kind.name())?;
            stored.extend(objects.into_iter().map(|object| read(kind, object)));
        }
        Ok(stored)
    }

    /// Whether an image is named in the backup.
    #[must_use]
    pub fn is_copy(&self, image: &str) -> bool {
        image.starts_with(&format!("{}/", self.backup.address()))
    }

    /// Whether the copy of each image of the plan can be found in the backup, in their order.
    ///
    /// # Errors
    /// When the backup does not answer.
    pub fn copied(&self) -> anyhow::Result<Vec<bool>> {
        let backup = self.backup.client();
        let images = self.plan.images.iter();
        images
            .map(|image| {
                let repository = self.copy_repository(image)?;
                let reference = image.reference(&self.upstream.localhost());
                let version = version_of(&reference)?;
                let found = backup.manifest(&repository, &version)?;
                Ok(found.is_some_and(|found| found.digest() == image.content.digest()))
            })
            .collect()
    }

    /// The top-level workloads that still name an original although another admission could change that.
    ///
    /// # Errors
    /// What the API server answers.
    pub fn not_rewritten(&self) -> anyhow::Result<Vec<String>> {
        let stored = self.stored()?;
        let waiting = stored.iter().filter(|stored| self.is_to_rewrite(stored));
        let names = waiting.filter_map(|stored| {
            let image = stored.images.iter().find(|image| !self.is_copy(image))?;
            Some(format!("{} still names {image}", stored.title()))
        });
        Ok(names.collect())
    }

    /// Everything that is wrong: workloads without their copies, images without one, references to nothing, Secrets that
    /// are not there or not right, sidecars that are not ready.
    ///
    /// # Errors
    /// When the API server or the backup does not answer.
    pub fn problems(&self) -> anyhow::Result<Vec<String>> {
        let mut problems = self.not_rewritten()?;
        let references = self.references();
        for (reference, is_copied) in references.iter().zip(self.copied()?) {
            if !is_copied {
                problems.push(format!("{reference} has no copy"));
            }
        }
        problems.extend(self.dangling()?);
        problems.extend(self.wrong_secrets()?);
        for replica in &self.replicas {
            let Some(sidecar) = replica.sidecar() else {
                continue;
            };
            match sidecar.admin_get("/readyz")? {
                (200, _) => {}
                (status, body) => problems.push(format!("/readyz says {status}: {body}")),
            }
        }
        Ok(problems)
    }

    /// References to copies that are not there.
    fn dangling(&self) -> anyhow::Result<Vec<String>> {
        let backup = self.backup.client();
        let stored = self.stored()?;
        let images = stored.iter().flat_map(|stored| &stored.images);
        let copies: BTreeSet<_> = images.filter(|image| self.is_copy(image)).collect();
        let mut problems = Vec::new();
        for copy in copies {
            let image = ImageRef::parse(copy).map_err(|error| anyhow::anyhow!("{error}"))?;
            if backup.manifest(image.path(), &version_of(copy)?)?.is_none() {
                problems.push(format!("{copy} is named, and not there"));
            }
        }
        Ok(problems)
    }

    /// What is wrong with the pull Secrets: one in each namespace that names it, with the right content, and no others.
    fn wrong_secrets(&self) -> anyhow::Result<Vec<String>> {
        let mut naming: BTreeMap<String, String> = BTreeMap::new();
        for stored in self.stored()? {
            if stored.secrets.iter().any(|name| name == PULL_SECRET) {
                naming.insert(stored.namespace.clone(), stored.title());
            }
        }
        let secrets = self.list("v1", "Secret")?;
        let mut problems = Vec::new();
        for (namespace, user) in naming {
            let mut there = secrets.iter().filter(|secret| {
                secret["metadata"]["namespace"] == namespace.as_str()
                    && secret["type"] == "kubernetes.io/dockerconfigjson"
            });
            let secret = there.next();
            if secret.is_none_or(|secret| secret["metadata"]["name"] != PULL_SECRET) {
                problems.push(format!("{user} names a Secret that is not in {namespace}"));
                continue;
            }
            if there.next().is_some() {
                problems.push(format!("there are several pull Secrets in {namespace}"));
            }
            match secret.map(|secret| credential(secret, &self.backup.address())) {
                Some(Ok(credential)) if credential == *self.puller() => {}
                Some(Err(error)) => problems.push(format!("the Secret in {namespace}: {error:#}")),
                _ => problems.push(format!("the Secret in {namespace} is not up to date")),
            }
        }
        Ok(problems)
    }

    /// A client that pulls with the Secret of a namespace, and the Secret as an `authfile`.
    ///
    /// # Errors
    /// When there is no such Secret, or it has nothing for the backup.
    pub fn puller_of(&self, namespace: &str) -> anyhow::Result<(RegistryClient, Vec<u8>)> {
        let mut namespaces = self.namespaces.iter();
        let namespace = namespaces
            .find(|known| known.name() == namespace)
            .context("no such namespace")?;
        let secret = serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": PULL_SECRET },
        });
        let secret = match namespace.get(&secret) {
            Ok(secret) => secret,
            Err(kube::Error::Api(status)) => bail!("{}: {}", namespace.name(), status.message),
            Err(error) => return Err(error.into()),
        };
        let address = self.backup.address();
        let client = RegistryClient::new(
            &address,
            Some(credential(&secret, &address)?),
            self.backup.ca_pem(),
        );
        Ok((client, config(&secret)?))
    }

    /// A `CronJob` is not watched where only its old version is served; whoever writes it gets the copies.
    fn is_to_rewrite(&self, stored: &Stored) -> bool {
        let is_watched = stored.kind != Kind::CronJob || self.batch == "batch/v1";
        stored.kind.is_mutable() && !stored.is_owned && is_watched
    }
}

impl Stored {
    /// Kind, namespace and name.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} {}/{}", self.kind.name(), self.namespace, self.name)
    }
}

fn read(kind: Kind, object: Value) -> Stored {
    let metadata = &object["metadata"];
    let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
    let secrets = spec_of(&object)["imagePullSecrets"].as_array();
    let names = secrets
        .into_iter()
        .flatten()
        .filter_map(|secret| Some(secret["name"].as_str()?.to_owned()));
    Stored {
        kind,
        namespace: text("namespace"),
        name: text("name"),
        is_owned: metadata["ownerReferences"][0]["controller"] == true,
        images: images_of(spec_of(&object)),
        secrets: names.collect(),
        object,
    }
}

/// The digest of a reference, else its tag.
pub(super) fn version_of(reference: &str) -> anyhow::Result<String> {
    let image = ImageRef::parse(reference).map_err(|error| anyhow::anyhow!("{error}"))?;
    match (image.digest(), image.tag()) {
        (Some(digest), _) => Ok(digest.to_string()),
        (None, tag) => Ok(tag.context("neither tag nor digest")?.to_owned()),
    }
}

/// The `.dockerconfigjson` of a Secret.
fn config(secret: &Value) -> anyhow::Result<Vec<u8>> {
    let data = secret["data"][".dockerconfigjson"].as_str();
    Ok(STANDARD.decode(data.context("no .dockerconfigjson")?)?)
}

/// What the `.dockerconfigjson` of a Secret has for a registry.
fn credential(secret: &Value, registry: &str) -> anyhow::Result<Credential> {
    let config: Value = serde_json::from_slice(&config(secret)?)?;
    let auth = config["auths"][registry]["auth"].as_str();
    let auth = STANDARD.decode(auth.with_context(|| format!("nothing for {registry}"))?)?;
    let auth = String::from_utf8(auth)?;
    let (user, password) = auth.split_once(':').context("no user and password")?;
    Ok(Credential::new(user, password))
}
