//! Requests to the sidecar, each sent once, within the time budget.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use mirror_contract::{
    Digest, ImageRef, ImageStatus, Mode, Place, PullSecretStatus, Query, Refusal, Sidecar, owners,
};
use serde::Deserialize;

use crate::host::{Host, HostError};
use crate::images::MAX_IMAGES;
use crate::object::Controller;
use crate::reason::Reason;

/// The status of an image, borrowing nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KnownStatus {
    Mirrored {
        copy: ImageRef<'static>,
        digest: Digest<'static>,
        /// The pull Secret that the copy is known to need.
        secret: Option<String>,
    },
    InBackup {
        /// The pull Secret that it is known to need.
        secret: Option<String>,
        /// It may be a copy with a former name.
        is_former: bool,
        is_unavailable: bool,
    },
    /// Its own registry has it, and its copy cannot be pulled.
    Original,
    Excluded,
}

/// The sidecar, during one admission request.
pub struct SidecarClient<'a, H> {
    host: &'a mut H,
    sidecar: Sidecar<'a>,
    mode: Mode,
    budget: Duration,
    /// At most [`MAX_IMAGES`], each with its query. A hash table of this type would add 3 KiB to the module.
    images: Vec<(String, Result<KnownStatus, Reason>)>,
    secret: Option<Result<Option<String>, Reason>>,
    /// The list of [`owners`] in the response about the pull Secret.
    skipped_owners: String,
    /// The error of the host, if it could not reach the sidecar.
    host_error: Option<String>,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl<'a, H: Host> SidecarClient<'a, H> {
    /// `budget` counts from the start of the evaluation.
    pub fn new(host: &'a mut H, sidecar: Sidecar<'a>, mode: Mode, budget: Duration) -> Self {
        Self {
            host,
            sidecar,
            mode,
            budget,
            images: Vec::new(),
            secret: None,
            skipped_owners: String::new(),
            host_error: None,
        }
    }

    /// The status of `image` in `place`. A tag beside a digest is ignored.
    pub fn image(
        &mut self,
        place: &Place<'_>,
        image: &ImageRef<'_>,
    ) -> Result<KnownStatus, Reason> {
        let query = Query::image_in(place.clone(), image.clone(), self.mode)
            .encode(&self.sidecar)
            .map_err(Reason::Unsupported)?;
        let mut images = self.images.iter();
        if let Some((_, known)) = images.find(|(known, _)| is_same(known, &query)) {
            return known.clone();
        }
        if self.images.len() == MAX_IMAGES {
            return Err(Reason::TooManyImages);
        }
        let is_target = *place == Place::Target;
        let is_original = matches!(place, Place::Original(_));
        // In the target of a rewrite there is the image itself, under this name.
        let is_possible = |copy: &ImageRef<'_>| {
            !is_target || (copy.host(), copy.path()) == (image.host(), image.path())
        };
        let known = self.request(&query, |manifest| {
            Some(
                match ImageStatus::from_annotations(|key| manifest.get(key))? {
                    ImageStatus::Mirrored { image, .. } if !is_possible(&image) => return None,
                    ImageStatus::Original { digest } => {
                        let is_requested = is_original && image.digest() == Some(&digest);
                        return is_requested.then_some(KnownStatus::Original);
                    }
                    _ if is_original => return None,
                    ImageStatus::InBackup { .. } if is_target => return None,
                    ImageStatus::Mirrored {
                        image,
                        digest,
                        secret,
                    } => KnownStatus::Mirrored {
                        copy: image.into_owned(),
                        digest: digest.into_owned(),
                        secret: secret.map(Cow::into_owned),
                    },
                    ImageStatus::InBackup {
                        secret,
                        is_former,
                        is_unavailable,
                    } => KnownStatus::InBackup {
                        is_former,
                        is_unavailable,
                        secret: secret.map(Cow::into_owned),
                    },
                    ImageStatus::Excluded { .. } => KnownStatus::Excluded,
                },
            )
        });
        // An original whose lookup has not ended is requested again.
        let is_pending = is_original && matches!(known, Err(Reason::Pending(_)));
        if !is_pending && !matches!(known, Err(Reason::OutOfTime)) {
            self.images.push((query, known.clone()));
        }
        known
    }

    /// The name of the pull Secret in `namespace`; `None` if copies need none.
    pub fn pull_secret(&mut self, namespace: &str) -> Result<Option<String>, Reason> {
        if let Some(secret) = &self.secret {
            return secret.clone();
        }
        let secret = self.request_pull_secret(namespace);
        self.secret.insert(secret).clone()
    }

    /// Whether the sidecar excludes Pods of this controller in `namespace`; `false` if it does not respond.
    pub fn skips_owner(&mut self, namespace: &str, controller: &Controller<'_>) -> bool {
        let _ = self.pull_secret(namespace);
        owners::lists(&self.skipped_owners, &controller.kind, &controller.name)
    }

    fn request_pull_secret(&mut self, namespace: &str) -> Result<Option<String>, Reason> {
        let query = Query::pull_secret(namespace, self.mode)
            .and_then(|query| query.encode(&self.sidecar).ok())
            .ok_or(Reason::NoNamespace)?;
        let mut skipped_owners = String::new();
        let secret = self.request(&query, |manifest| {
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

    /// The host, and its error if it could not reach the sidecar.
    pub fn into_parts(self) -> (&'a mut H, Option<String>) {
        (self.host, self.host_error)
    }

    fn request<T>(
        &mut self,
        query: &str,
        read: impl FnOnce(&Manifest) -> Option<T>,
    ) -> Result<T, Reason> {
        // Another request would only wait for the same timeout.
        if self.host_error.is_some() {
            return Err(Reason::NoResponse);
        }
        if self.host.elapsed() >= self.budget {
            return Err(Reason::OutOfTime);
        }
        match self.host.manifest(query) {
            Ok(body) => serde_json::from_str(&body)
                .ok()
                .and_then(|manifest| read(&manifest))
                .ok_or(Reason::InvalidResponse),
            Err(HostError(text)) => {
                if let Some(refusal) = Refusal::find(&text) {
                    return Err(refusal.into());
                }
                self.host_error = Some(text);
                Err(Reason::NoResponse)
            }
        }
    }
}

/// Compares queries from their ends, since all start alike.
fn is_same(first: &str, second: &str) -> bool {
    first.len() == second.len() && first.bytes().rev().eq(second.bytes().rev())
}

impl Manifest {
    fn get(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }
}
