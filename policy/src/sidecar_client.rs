//! Questions to the sidecar, each asked once, within the time that there is.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use mirror_contract::{
    Digest, ImageRef, ImageStatus, Mode, PullSecretStatus, Query, Refusal, Sidecar, owners,
};
use serde::Deserialize;

use crate::host::{Host, HostError};
use crate::object::Controller;
use crate::reason::Reason;

/// Images that one request may ask about. Kubewarden's host keeps every reference that was ever asked for in memory, so a
/// Pod of a million invented names would stay there for ever; no real workload has a tenth of this.
pub const MAX_IMAGES: usize = 100;

/// What the sidecar knows about an image for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KnownStatus {
    /// There is a copy.
    Mirrored {
        /// The copy, with its tag if one was asked for.
        copy: ImageRef<'static>,
        /// The digest of both.
        digest: Digest<'static>,
        /// The pull Secret that the copy is known to need.
        secret: Option<String>,
    },
    InBackup {
        /// The pull Secret that it is known to need.
        secret: Option<String>,
        /// It may be a copy under a former name.
        is_former: bool,
    },
    /// There will be none.
    Excluded,
}

/// The sidecar, as one request sees it.
pub struct SidecarClient<'a, H> {
    host: &'a mut H,
    sidecar: Sidecar<'a>,
    mode: Mode,
    budget: Duration,
    /// By query. All queries begin alike, so comparing them would take longer than hashing them.
    images: HashMap<String, Result<KnownStatus, Reason>>,
    /// How many images were asked about.
    asked: usize,
    secret: Option<Result<Option<String>, Reason>>,
    /// The list of [`owners`] that came with the response about the Secret.
    skipped_owners: String,
    /// What the host said when the sidecar could not be reached.
    trouble: Option<String>,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl<'a, H: Host> SidecarClient<'a, H> {
    /// Asks `sidecar` through `host` until `budget` has passed since the evaluation began.
    pub fn new(host: &'a mut H, sidecar: Sidecar<'a>, mode: Mode, budget: Duration) -> Self {
        Self {
            host,
            sidecar,
            mode,
            budget,
            images: HashMap::new(),
            asked: 0,
            secret: None,
            skipped_owners: String::new(),
            trouble: None,
        }
    }

    /// What is known about `image`. The tag next to a digest does not matter.
    pub fn image(&mut self, image: &ImageRef<'_>) -> Result<KnownStatus, Reason> {
        let query = Query::image(image.clone(), self.mode)
            .encode(&self.sidecar)
            .map_err(Reason::Unsupported)?;
        if let Some(known) = self.images.get(&query) {
            return known.clone();
        }
        if self.asked == MAX_IMAGES {
            return Err(Reason::TooMany);
        }
        let known = self.ask(&query, |manifest| {
            Some(
                match ImageStatus::from_annotations(|key| manifest.get(key))? {
                    ImageStatus::Mirrored {
                        image,
                        digest,
                        secret,
                    } => KnownStatus::Mirrored {
                        copy: image.into_owned(),
                        digest: digest.into_owned(),
                        secret: secret.map(Cow::into_owned),
                    },
                    ImageStatus::InBackup { secret, is_former } => KnownStatus::InBackup {
                        is_former,
                        secret: secret.map(Cow::into_owned),
                    },
                    ImageStatus::Excluded { .. } => KnownStatus::Excluded,
                },
            )
        });
        if !matches!(known, Err(Reason::NoTime)) {
            self.asked += 1;
            self.images.insert(query, known.clone());
        }
        known
    }

    /// The name of the pull Secret that copies need in `namespace`; `None` if they need none.
    pub fn pull_secret(&mut self, namespace: &str) -> Result<Option<String>, Reason> {
        if let Some(secret) = &self.secret {
            return secret.clone();
        }
        let secret = self.ask_for_secret(namespace);
        self.secret.insert(secret).clone()
    }

    /// Whether the sidecar says that Pods of this controller in `namespace` are left alone. What it does not say is not so.
    pub fn skips_owner(&mut self, namespace: &str, controller: &Controller<'_>) -> bool {
        let _ = self.pull_secret(namespace);
        owners::lists(&self.skipped_owners, &controller.kind, &controller.name)
    }

    fn ask_for_secret(&mut self, namespace: &str) -> Result<Option<String>, Reason> {
        let query = Query::pull_secret(namespace, self.mode)
            .and_then(|query| query.encode(&self.sidecar).ok())
            .ok_or(Reason::NoNamespace)?;
        let mut skipped_owners = String::new();
        let secret = self.ask(&query, |manifest| {
            let list = manifest.get(owners::SKIPPED_OWNERS);
            list.unwrap_or_default().clone_into(&mut skipped_owners);
            Some(
                match PullSecretStatus::from_annotations(|key| manifest.get(key))? {
                    PullSecretStatus::Ready { name } => Some(name.into_owned()),
                    PullSecretStatus::NotNeeded => None,
                },
            )
        });
        self.skipped_owners = skipped_owners;
        secret
    }

    /// The host, and its own words about the last failure to reach the sidecar.
    pub fn into_parts(self) -> (&'a mut H, Option<String>) {
        (self.host, self.trouble)
    }

    fn ask<T>(
        &mut self,
        query: &str,
        read: impl FnOnce(&Manifest) -> Option<T>,
    ) -> Result<T, Reason> {
        // A sidecar that could not be reached would cost the time to find that out again for every image.
        if self.trouble.is_some() {
            return Err(Reason::Silent);
        }
        if self.host.elapsed() >= self.budget {
            return Err(Reason::NoTime);
        }
        match self.host.manifest(query) {
            Ok(body) => serde_json::from_str(&body)
                .ok()
                .and_then(|manifest| read(&manifest))
                .ok_or(Reason::Unusable),
            Err(HostError(text)) => {
                if let Some(refusal) = Refusal::find(&text) {
                    return Err(refusal.into());
                }
                self.trouble = Some(text);
                Err(Reason::Silent)
            }
        }
    }
}

impl Manifest {
    fn get(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }
}
