//! A host whose sidecar answers by a script. What the script does not mention is mirrored.

use std::collections::BTreeMap;
use std::time::Duration;

use mirror_contract::{
    Backup, Digest, ImageRef, ImageStatus, Naming, Place, PullSecretStatus, Query, Refusal,
    RefusalKind,
};
use serde_json::{Value, json};

use crate::{Host, HostError};

pub const SIDECAR: &str = "sidecar.test:5000";
pub const TAG_DIGEST: &str =
    "sha256:1111111111111111111111111111111111111111111111111111111111111111";
pub const SECRET: &str = "image-mirror-pull";

/// The registry of all backups other than the default.
const TEAM_BACKUPS: &str = "teams.test";

fn team_backup(name: &str) -> Backup {
    Backup::new(TEAM_BACKUPS, name, Naming::Flat).unwrap()
}

/// What the host says to one question.
#[derive(Clone)]
pub enum Reply {
    Manifest(String),
    Error(String),
}

pub struct Script {
    backup: Backup,
    replies: BTreeMap<String, Reply>,
    everything_else: Option<Reply>,
    hints: bool,
    is_unavailable: bool,
    /// Images with one of these letters in their name have no copy.
    missing: Vec<char>,
    /// How long each call takes.
    pub cost: Duration,
    now: Duration,
    /// The questions, without the sidecar's address.
    pub asked: Vec<String>,
    pub logged: Vec<Value>,
}

impl Script {
    pub fn new() -> Self {
        Self {
            backup: Backup::new("backup.test", "acme", Naming::Flat).unwrap(),
            replies: BTreeMap::new(),
            everything_else: None,
            hints: true,
            is_unavailable: false,
            missing: Vec::new(),
            cost: Duration::ZERO,
            now: Duration::ZERO,
            asked: Vec::new(),
            logged: Vec::new(),
        }
    }

    /// With copies in another backup.
    pub fn of(backup: Backup) -> Self {
        Self {
            backup,
            ..Self::new()
        }
    }

    /// The reply to one question, given without the sidecar's address.
    pub fn reply(mut self, question: &str, reply: Reply) -> Self {
        self.replies.insert(question.to_owned(), reply);
        self
    }

    /// The reply to every other question.
    pub fn otherwise(mut self, reply: Reply) -> Self {
        self.everything_else = Some(reply);
        self
    }

    pub fn costing(mut self, cost: Duration) -> Self {
        self.cost = cost;
        self
    }

    /// Answers about images do not name the pull Secret, so that it has to be asked for.
    pub fn without_hints(mut self) -> Self {
        self.hints = false;
        self
    }

    /// The backup does not respond, and the registries of all originals do.
    pub fn with_unavailable_backup(mut self) -> Self {
        self.is_unavailable = true;
        self
    }

    /// Images with one of these letters in their name have no copy yet.
    pub fn without_copies_of(mut self, letters: &str) -> Self {
        self.missing = letters.chars().collect();
        self
    }

    fn backup_of(&self, place: &Place<'_>) -> Backup {
        match place {
            Place::Backup(name) if !name.is_default() => team_backup(name.as_str()),
            _ => self.backup.clone(),
        }
    }

    fn is_copy(&self, image: &ImageRef<'_>) -> bool {
        self.backup.contains(image) || image.host() == TEAM_BACKUPS
    }

    fn answer(&self, answer: ImageStatus<'_>) -> Vec<(&'static str, String)> {
        answer
            .naming_secret(self.hints.then_some(SECRET))
            .annotations()
    }

    /// The reply to a question when everything is mirrored.
    pub fn mirrored(&self, question: &str) -> Reply {
        let (repository, tag) = question.rsplit_once(':').expect("a tag");
        Reply::Manifest(match Query::decode(repository, tag).expect("a query") {
            Query::PullSecret { .. } => manifest(
                &PullSecretStatus::Ready {
                    name: SECRET.into(),
                }
                .annotations(),
            ),
            Query::Image {
                image,
                place: Place::Original(_),
                ..
            } => manifest(&self.answer(ImageStatus::Original {
                digest: image.digest().cloned().expect("a digest"),
            })),
            Query::Image { image, place, .. } if self.is_copy(&image) => {
                manifest(&self.answer(ImageStatus::InBackup {
                    secret: None,
                    is_former: !self.backup_of(&place).contains(&image),
                    is_unavailable: self.is_unavailable,
                }))
            }
            Query::Image { .. } if self.is_unavailable => {
                return refused(
                    RefusalKind::Unavailable,
                    "the backup registry does not respond",
                );
            }
            Query::Image { image, .. } if image.path().contains(&self.missing[..]) => {
                return pending();
            }
            Query::Image { image, place, .. } => {
                let digest = image.digest().cloned();
                let digest = digest.unwrap_or_else(|| Digest::parse(TAG_DIGEST).unwrap());
                let image = match place {
                    Place::Target => image,
                    Place::Backup(_) | Place::Original(_) => {
                        self.backup_of(&place).target(&image).unwrap()
                    }
                };
                let secret = None;
                manifest(&self.answer(ImageStatus::Mirrored {
                    image,
                    digest,
                    secret,
                }))
            }
        })
    }
}

impl Host for Script {
    fn manifest(&mut self, reference: &str) -> Result<String, HostError> {
        let question = reference
            .strip_prefix(SIDECAR)
            .and_then(|rest| rest.strip_prefix('/'))
            .expect("only the sidecar is asked");
        self.now += self.cost;
        self.asked.push(question.to_owned());
        let scripted = self.replies.get(question).or(self.everything_else.as_ref());
        match scripted.cloned().unwrap_or_else(|| self.mirrored(question)) {
            Reply::Manifest(manifest) => Ok(manifest),
            Reply::Error(error) => Err(HostError(error)),
        }
    }

    fn log(&mut self, event: &[u8]) {
        self.logged.push(serde_json::from_slice(event).unwrap());
    }

    fn elapsed(&self) -> Duration {
        self.now
    }
}

/// A manifest with these annotations, as the host hands it on.
pub fn manifest<K: AsRef<str>>(annotations: &[(K, String)]) -> String {
    let annotations: BTreeMap<_, _> = annotations
        .iter()
        .map(|(key, value)| (key.as_ref(), value))
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
            "size": 2
        },
        "layers": [],
        "annotations": annotations
    })
    .to_string()
}

pub fn excluded() -> Reply {
    Reply::Manifest(manifest(
        &ImageStatus::Excluded {
            reason: "denied".into(),
        }
        .annotations(),
    ))
}

pub fn mirrored(image: &str, digest: &str) -> Reply {
    Reply::Manifest(manifest(&[
        ("image-mirror.dev/state", "mirrored".to_owned()),
        ("image-mirror.dev/image", image.to_owned()),
        ("image-mirror.dev/digest", digest.to_owned()),
    ]))
}

pub fn secret_not_needed() -> Reply {
    Reply::Manifest(manifest(&PullSecretStatus::NotNeeded.annotations()))
}

/// A refusal in the words of the real host.
pub fn refused(kind: RefusalKind, reason: &str) -> Reply {
    let refusal = Refusal::new(kind, reason);
    let error = format!(
        "Registry error: url https://{SIDECAR}/v2/x/manifests/1, envelope: OCI API errors: [OCI API error: {refusal}]"
    );
    Reply::Error(format!(
        "Host error: Callback evaluation failure: Fail to interact with OCI registry: {error}\n\nCaused by:\n    {error}\n\nStack backtrace:\n   0: anyhow::error"
    ))
}

pub fn pending() -> Reply {
    refused(RefusalKind::Pending, "copying")
}

/// What the real host says when nothing listens.
pub fn down() -> Reply {
    Reply::Error(format!(
        "Host error: Callback evaluation failure: Fail to interact with OCI registry: error sending request for url (https://{SIDECAR}/v2/x)\n\nCaused by:\n    0: error sending request\n    1: client error (Connect)\n    2: tcp connect error\n    3: Connection refused (os error 111)"
    ))
}
