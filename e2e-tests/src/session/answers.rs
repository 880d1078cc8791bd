//! What a sidecar would tell, in a few words, and how the host passes it on.
//!
//! The words are a case's; the texts are those that the real host made of the real sidecar's answers.

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow};
use mirror_contract::{
    Backup, Digest, ImageRef, ImageStatus, Naming, Place, PullSecretStatus, Query, Refusal,
    RefusalKind,
};
use oci_client::manifest::OciManifest;
use serde::Deserialize;
use serde_json::json;

use super::{Request, Response};
use testkit::digest;

/// Where the copies of the default backup are. Those of another one are in the repository of its name.
const BACKUP: (&str, &str) = ("registry.example.com", "acme/mirror");
/// The pull Secret that they need.
const PULL_SECRET: &str = "image-mirror-pull";

/// What the sidecar knows. By default every image has a copy, and the copies need a pull Secret, which is ready.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Answers {
    /// About single images, in their canonical form such as `docker.io/library/nginx:1.27`. An image in the target of a
    /// rewrite has the name that it has there.
    images: BTreeMap<String, Fate>,
    /// About all other images.
    others: Fate,
    /// About the pull Secret.
    secret: Secret,
}

/// What becomes of a question about an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Fate {
    #[default]
    Mirrored,
    /// It is in the backup itself.
    InBackup,
    /// It is never mirrored.
    Excluded,
    Pending,
    Failed,
    /// The backup registry is slow.
    Unavailable,
    /// The backup registry does not respond: copies cannot be pulled, and originals are where they were.
    BackupUnavailable,
    /// Nobody listens.
    Down,
    /// The password is wrong.
    Unauthorized,
    /// The answer is about another image.
    OtherDigest,
    /// The answer is an image manifest, but not one of a sidecar.
    Nonsense,
}

/// What becomes of a question about the pull Secret.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Secret {
    #[default]
    Ready,
    NotNeeded,
    /// The namespace is excluded.
    Failed,
    Unavailable,
    Down,
}

impl Answers {
    /// The host's answer to a question of the policy.
    ///
    /// # Errors
    /// When this is no question of the contract.
    pub fn to(&self, request: &Request) -> anyhow::Result<Response> {
        let Request::OciManifest { image: asked } = request else {
            return Err(anyhow!("{request:?} is no question of the contract"));
        };
        let (sidecar, question) = asked
            .split_once('/')
            .with_context(|| format!("{asked} names no registry"))?;
        let (repository, tag) = question
            .rsplit_once(':')
            .with_context(|| format!("{asked} has no tag"))?;
        let query = Query::decode(repository, tag)?;
        let url = format!("https://{sidecar}/v2/{repository}/manifests/{tag}");
        match query {
            Query::Image { image, place, .. } => self.image(&image, &place, &url),
            Query::PullSecret { namespace, .. } => self.secret(&namespace, &url),
        }
    }

    fn image(
        &self,
        image: &ImageRef<'_>,
        place: &Place<'_>,
        url: &str,
    ) -> anyhow::Result<Response> {
        let name = image.to_string();
        let refuse = |kind, reason: &str| Ok(refusal(kind, reason, url));
        let in_backup = |is_unavailable| ImageStatus::InBackup {
            secret: None,
            is_former: image.host() == BACKUP.0
                && !backup_at(place).is_ok_and(|backup| backup.contains(image)),
            is_unavailable,
        };
        match self.images.get(&name).unwrap_or(&self.others) {
            Fate::BackupUnavailable => match place {
                Place::Backup(_) if image.host() == BACKUP.0 => self.lasting(in_backup(true)),
                Place::Backup(_) => refuse(
                    RefusalKind::Unavailable,
                    "the backup registry does not respond",
                ),
                Place::Original(_) | Place::Target => {
                    self.mirrored(image, place, &digest_of(image))
                }
            },
            Fate::Mirrored => self.mirrored(image, place, &digest_of(image)),
            Fate::OtherDigest => self.mirrored(image, place, &digest::of(b"another image")),
            Fate::InBackup => self.lasting(in_backup(false)),
            Fate::Excluded => {
                let reason = "its registry is not mirrored".into();
                self.lasting(ImageStatus::Excluded { reason })
            }
            Fate::Pending if *place == Place::Target => {
                let reason = format!("{} has not responded yet", image.host());
                refuse(RefusalKind::Pending, &reason)
            }
            Fate::Pending => refuse(RefusalKind::Pending, "queued"),
            Fate::Failed if !matches!(place, Place::Backup(_)) => {
                let reason = format!("{} has no such image", image.host());
                refuse(RefusalKind::Failed, &reason)
            }
            Fate::Failed => refuse(RefusalKind::Failed, "the registry has no such image"),
            Fate::Unavailable => refuse(
                RefusalKind::Unavailable,
                "the backup registry responds too slowly",
            ),
            Fate::Down => Ok(down(url)),
            Fate::Unauthorized => Ok(registry_error(&format!("Not authorized: url {url}"))),
            Fate::Nonsense => success(&[("org.opencontainers.image.title", "hello".to_owned())]),
        }
    }

    fn mirrored(
        &self,
        image: &ImageRef<'_>,
        place: &Place<'_>,
        digest: &str,
    ) -> anyhow::Result<Response> {
        let digest = Digest::parse(digest).context("a digest is none")?;
        let mirrored = |image, digest| ImageStatus::Mirrored {
            image,
            digest,
            secret: None,
        };
        match place {
            // The image itself, which needs no pull Secret.
            Place::Target => success(&mirrored(image.clone(), digest).annotations()),
            Place::Original(_) => success(&ImageStatus::Original { digest }.annotations()),
            Place::Backup(_) => {
                let copy = backup_at(place)?.target(image)?;
                self.lasting(mirrored(copy, digest))
            }
        }
    }

    /// Names the pull Secret, which the sidecar knows whether or not it can make one.
    fn lasting(&self, answer: ImageStatus<'_>) -> anyhow::Result<Response> {
        let secret = (self.secret != Secret::NotNeeded).then_some(PULL_SECRET);
        success(&answer.naming_secret(secret).annotations())
    }

    fn secret(&self, namespace: &str, url: &str) -> anyhow::Result<Response> {
        match self.secret {
            Secret::Ready => {
                let name = PULL_SECRET.into();
                success(&PullSecretStatus::Ready { name }.annotations())
            }
            Secret::NotNeeded => success(&PullSecretStatus::NotNeeded.annotations()),
            Secret::Failed => {
                let reason = format!("namespace {namespace} is excluded");
                Ok(refusal(RefusalKind::Failed, &reason, url))
            }
            Secret::Unavailable => {
                let reason = "the API server does not answer";
                Ok(refusal(RefusalKind::Unavailable, reason, url))
            }
            Secret::Down => Ok(down(url)),
        }
    }
}

fn backup_at(place: &Place<'_>) -> anyhow::Result<Backup> {
    let repository = match place {
        Place::Backup(name) if !name.is_default() => name.to_string(),
        _ => BACKUP.1.to_owned(),
    };
    Backup::new(BACKUP.0, &repository, Naming::Flat)
        .map_err(|error| anyhow!("the backup is at no place: {error:?}"))
}

/// The digest in the reference, or one that depends on nothing but the reference.
fn digest_of(image: &ImageRef<'_>) -> String {
    image.digest().map_or_else(
        || digest::of(image.to_string().as_bytes()),
        ToString::to_string,
    )
}

/// An answer of the sidecar as it comes out of the host, which parses and writes every manifest.
///
/// # Errors
/// When the host could not read it.
pub fn manifest(annotations: &[(&'static str, String)]) -> anyhow::Result<String> {
    let annotations: BTreeMap<_, _> = annotations.iter().cloned().collect();
    let sent = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.image-mirror.answer.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": digest::of(b"{}"),
            "size": 2,
        },
        "layers": [],
        "annotations": annotations,
    });
    let passed_on: OciManifest = serde_json::from_value(sent)?;
    Ok(serde_json::to_string(&passed_on)?)
}

fn success(annotations: &[(&'static str, String)]) -> anyhow::Result<Response> {
    let payload = manifest(annotations)?;
    Ok(Response::Success { payload })
}

fn refusal(kind: RefusalKind, reason: &str, url: &str) -> Response {
    let message = Refusal::new(kind, reason);
    registry_error(&format!(
        "Registry error: url {url}, envelope: OCI API errors: [OCI API error: {message}]"
    ))
}

fn down(url: &str) -> Response {
    registry_error(&format!("error sending request for url ({url})"))
}

fn registry_error(error: &str) -> Response {
    Response::Error {
        message: format!("Fail to interact with OCI registry: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(answers: &str, image: &str) -> Response {
        let answers: Answers = serde_json::from_str(answers).unwrap();
        let image = format!("sidecar.example:5000/{image}");
        answers.to(&Request::OciManifest { image }).unwrap()
    }

    #[test]
    fn what_is_not_named_is_mirrored() {
        let Response::Success { payload } = answer("{}", "tag/ghcr.io/acme/app:v1") else {
            panic!("it is not mirrored");
        };
        assert!(payload.contains("registry.example.com/acme/mirror/ghcr.io-acme-app:v1"));
    }

    #[test]
    fn a_refusal_has_the_hosts_words_around_it() {
        let answers = r#"{"images": {"ghcr.io/acme/app:v1": "pending"}, "others": "down"}"#;
        let message = "Fail to interact with OCI registry: Registry error: \
            url https://sidecar.example:5000/v2/tag/ghcr.io/acme/app/manifests/v1, \
            envelope: OCI API errors: [OCI API error: image-mirror/pending: queued]";
        assert_eq!(
            answer(answers, "tag/ghcr.io/acme/app:v1"),
            Response::Error {
                message: message.to_owned()
            }
        );
        let Response::Error { message } = answer(answers, "peek/tag/ghcr.io/acme/app:v2") else {
            panic!("it is not down");
        };
        assert!(message.contains("error sending request"), "{message}");
    }

    #[test]
    fn what_no_sidecar_understands_has_no_answer() {
        let image = "sidecar.example:5000/library/nginx:1".to_owned();
        let answers = Answers::default();
        assert!(
            answers
                .to(&Request::OciManifest {
                    image: image.clone()
                })
                .is_err()
        );
        assert!(answers.to(&Request::OciManifestDigest { image }).is_err());
    }
}
