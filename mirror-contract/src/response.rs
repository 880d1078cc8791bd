//! Responses of the sidecar.
//!
//! A success is an empty OCI image manifest with the status in its annotations. The host caches it for 60 seconds, so it must
//! stay true for that long. Everything else is a [`Refusal`]: an OCI error, which is never cached, and of which the policy only
//! gets the message, within an error text of the host.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::digest::Digest;
use crate::grammar;
use crate::reference::ImageRef;
use crate::text::on_one_line;

const STATE: &str = "image-mirror.dev/state";
const IMAGE: &str = "image-mirror.dev/image";
const DIGEST: &str = "image-mirror.dev/digest";
const REASON: &str = "image-mirror.dev/reason";
const SECRET: &str = "image-mirror.dev/secret";
const NAME: &str = "image-mirror.dev/name";
/// The value of [`NAME`] for an image whose name no copy has any more.
const FORMER: &str = "former";
const BACKUP: &str = "image-mirror.dev/backup";
/// The value of [`BACKUP`] while the registry of the image does not respond.
const UNAVAILABLE: &str = "unavailable";

/// Longest reason, in characters. Error texts of registries may have several pages.
const MAX_REASON: usize = 200;

/// Longest word, in bytes, that is dropped so that it is not cut.
const LONGEST_WORD: usize = 64;

/// The status of an image, in a response that the host caches for 60 seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageStatus<'a> {
    /// There is a copy.
    Mirrored {
        /// The copy, with the tag if the request had a tag, otherwise with the digest.
        image: ImageRef<'a>,
        /// The digest of copy and original.
        digest: Digest<'a>,
        /// The pull Secret that the copy needs, if it has the same name in all namespaces.
        secret: Option<Cow<'a, str>>,
    },
    /// The image is in the backup repository itself.
    InBackup {
        /// The pull Secret that the image needs, as for [`Self::Mirrored`].
        secret: Option<Cow<'a, str>>,
        /// The image may be a copy with a former name: it is in a former backup, or no copy in the backup has this name now.
        is_former: bool,
        /// The backup has not responded for a while, so the image cannot be pulled.
        is_unavailable: bool,
    },
    /// The backup is unavailable, and the registry of the image has it with this digest.
    Original {
        /// The requested digest.
        digest: Digest<'a>,
    },
    /// The image is not mirrored.
    Excluded {
        /// A few words for users.
        reason: Cow<'a, str>,
    },
}

/// The status of the pull Secret of a namespace, in a response that the host caches for 60 seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullSecretStatus<'a> {
    /// The Secret exists.
    Ready {
        /// The name of the Secret (RFC 1123 subdomain).
        name: Cow<'a, str>,
    },
    /// Copies can be pulled without credentials.
    NotNeeded,
}

/// The message of an error response, which is never cached, for a status that may change soon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// The status.
    pub kind: RefusalKind,
    /// A few words for users, on one line of at most 200 characters.
    pub reason: Cow<'a, str>,
}

/// The status in a [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The copy is queued or being made.
    Pending,
    /// The copy failed.
    Failed,
    /// The status is unknown, for example because the backup registry does not respond.
    Unavailable,
}

impl<'a> ImageStatus<'a> {
    /// Sets the pull Secret of an image in the backup.
    #[must_use]
    pub fn naming_secret(mut self, name: Option<&'a str>) -> Self {
        match &mut self {
            Self::Mirrored { secret, .. } | Self::InBackup { secret, .. } => {
                *secret = name.map(Cow::Borrowed);
            }
            Self::Original { .. } | Self::Excluded { .. } => {}
        }
        self
    }

    /// Returns the annotations of the manifest for this status.
    #[must_use]
    pub fn annotations(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Mirrored {
                image,
                digest,
                secret,
            } => {
                let mut annotations = Vec::from([
                    (STATE, "mirrored".to_string()),
                    (IMAGE, name_of_copy(image)),
                    (DIGEST, digest.to_string()),
                ]);
                annotations.extend(secret_annotation(secret.as_deref()));
                annotations
            }
            Self::InBackup {
                secret,
                is_former,
                is_unavailable,
            } => {
                let mut annotations = Vec::from([(STATE, "in-backup".to_string())]);
                if *is_former {
                    annotations.push((NAME, FORMER.to_string()));
                }
                if *is_unavailable {
                    annotations.push((BACKUP, UNAVAILABLE.to_string()));
                }
                annotations.extend(secret_annotation(secret.as_deref()));
                annotations
            }
            Self::Original { digest } => Vec::from([
                (STATE, "original".to_string()),
                (DIGEST, digest.to_string()),
            ]),
            Self::Excluded { reason } => Vec::from([
                (STATE, "excluded".to_string()),
                (REASON, reason.to_string()),
            ]),
        }
    }

    /// Parses the status from annotations, which `get` returns by key; returns `None` if they have none.
    #[must_use]
    pub fn from_annotations(get: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        match get(STATE)? {
            "mirrored" => {
                let digest = Digest::parse(get(DIGEST)?)?;
                let image = copy_from_name(get(IMAGE)?, &digest)?;
                Some(Self::Mirrored {
                    image,
                    digest,
                    secret: secret_name(get),
                })
            }
            "original" => Some(Self::Original {
                digest: Digest::parse(get(DIGEST)?)?,
            }),
            "in-backup" => Some(Self::InBackup {
                is_former: get(NAME) == Some(FORMER),
                is_unavailable: get(BACKUP) == Some(UNAVAILABLE),
                secret: secret_name(get),
            }),
            "excluded" => Some(Self::Excluded {
                reason: Cow::Borrowed(get(REASON).unwrap_or_default()),
            }),
            _ => None,
        }
    }
}

/// Returns whether a Secret can have this name (RFC 1123 subdomain, at most 253 characters).
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    grammar::is_object_name(name)
}

fn secret_annotation(name: Option<&str>) -> Option<(&'static str, String)> {
    name.map(|name| (SECRET, name.to_string()))
}

fn secret_name<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<Cow<'a, str>> {
    let name = get(SECRET).filter(|name| is_secret_name(name))?;
    Some(Cow::Borrowed(name))
}

/// Without the digest, which has an annotation of its own.
fn name_of_copy(image: &ImageRef<'_>) -> String {
    match image.tag() {
        Some(tag) => format!("{}/{}:{tag}", image.host(), image.path()),
        None => format!("{}/{}", image.host(), image.path()),
    }
}

fn copy_from_name<'a>(name: &'a str, digest: &Digest<'a>) -> Option<ImageRef<'a>> {
    let has_tag = name
        .rsplit_once('/')
        .is_some_and(|(_, last)| last.contains(':'));
    if has_tag {
        return ImageRef::parse(name).ok();
    }
    let pinned = format!("{name}@{digest}");
    ImageRef::parse(&pinned).ok().map(ImageRef::into_owned)
}

impl<'a> PullSecretStatus<'a> {
    /// Returns the annotations of the manifest for this status.
    #[must_use]
    pub fn annotations(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Ready { name } => {
                Vec::from([(STATE, "ready".to_string()), (SECRET, name.to_string())])
            }
            Self::NotNeeded => Vec::from([(STATE, "not-needed".to_string())]),
        }
    }

    /// Parses the status from annotations, which `get` returns by key; returns `None` if they have none.
    #[must_use]
    pub fn from_annotations(get: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        match get(STATE)? {
            "ready" => Some(Self::Ready {
                name: secret_name(get)?,
            }),
            "not-needed" => Some(Self::NotNeeded),
            _ => None,
        }
    }
}

impl RefusalKind {
    const ALL: [Self; 3] = [Self::Pending, Self::Failed, Self::Unavailable];

    const fn marker(self) -> &'static str {
        match self {
            Self::Pending => "image-mirror/pending:",
            Self::Failed => "image-mirror/failed:",
            Self::Unavailable => "image-mirror/unavailable:",
        }
    }
}

impl<'a> Refusal<'a> {
    /// Returns a refusal of one line. Characters that end the reason in the host's error texts are replaced, and a reason of more
    /// than 200 characters is cut after a word.
    #[must_use]
    pub fn new(kind: RefusalKind, reason: &str) -> Refusal<'static> {
        let plain = |c: char| match c {
            ']' => ')',
            '[' => '(',
            '"' | '\\' => '\'',
            c => on_one_line(c),
        };
        let mut reason: String = reason.chars().map(plain).collect();
        if reason.chars().count() > MAX_REASON {
            // Two characters for the ellipsis.
            let mut ends = reason.char_indices().skip(MAX_REASON - 2);
            let end = ends.next().map_or(0, |(end, _)| end);
            let words = reason.get(..end).and_then(|start| start.rfind(' '));
            let words = words.filter(|words| end - words <= LONGEST_WORD);
            reason.truncate(words.unwrap_or(end));
            reason.push_str(" …");
        }
        Refusal {
            kind,
            reason: Cow::Owned(reason),
        }
    }

    /// Returns a refusal for an image that may be used later.
    #[must_use]
    pub fn pending(reason: &str) -> Refusal<'static> {
        Self::new(RefusalKind::Pending, reason)
    }

    /// Returns a refusal for an image that cannot be used.
    #[must_use]
    pub fn failed(reason: &str) -> Refusal<'static> {
        Self::new(RefusalKind::Failed, reason)
    }

    /// Returns a refusal for an image that cannot be looked up.
    #[must_use]
    pub fn unavailable(reason: &str) -> Refusal<'static> {
        Self::new(RefusalKind::Unavailable, reason)
    }

    /// Finds a refusal anywhere in an error text of the host, which wraps the message of the sidecar.
    #[must_use]
    pub fn find(text: &'a str) -> Option<Self> {
        let (kind, rest) = RefusalKind::ALL
            .into_iter()
            .filter_map(|kind| {
                let start = text.find(kind.marker())?;
                Some((start, kind, text.get(start + kind.marker().len()..)?))
            })
            .min_by_key(|&(start, ..)| start)
            .map(|(_, kind, rest)| (kind, rest))?;
        let end = rest.find(['\n', '\r', ']', '"']).unwrap_or(rest.len());
        let reason = rest.get(..end).unwrap_or_default().trim();
        Some(Self {
            kind,
            reason: Cow::Borrowed(reason),
        })
    }
}

/// The message of the OCI error that carries the refusal.
impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.marker(), self.reason)
    }
}
