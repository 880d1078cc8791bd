//! What the sidecar replies.
//!
//! A success is an empty OCI image manifest whose annotations carry the answer; the host caches it for 60 seconds, so
//! only what stays true for that long may be one. Everything else is a [`Refusal`]: an OCI error, which is never cached,
//! and of which the policy sees nothing but the message, wrapped in the texts of the host.

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
/// The value of [`NAME`] for an image whose name the backup gives to no copy now.
const FORMER: &str = "former";

/// Longest reason that is passed on, in characters. Error texts of registries can be pages long.
const MAX_REASON: usize = 200;

/// Bytes that are left out at most so that no word of a reason is cut.
const LONGEST_WORD: usize = 64;

/// The lasting answer about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageStatus<'a> {
    /// There is a copy.
    Mirrored {
        /// The copy: with its tag if a tag was asked for, else with its digest.
        image: ImageRef<'a>,
        /// The digest of the copy, which is that of the original.
        digest: Digest<'a>,
        /// The pull Secret that it needs, where the sidecar knows it without knowing the namespace.
        secret: Option<Cow<'a, str>>,
    },
    /// The image is in the backup repository itself.
    InBackup {
        /// The pull Secret that it needs, as above.
        secret: Option<Cow<'a, str>>,
        /// The image may be a copy under a former name: it is in a former backup, or the backup gives no copy this name now.
        is_former: bool,
    },
    /// There will never be a copy.
    Excluded {
        /// Why, in a few words.
        reason: Cow<'a, str>,
    },
}

/// The lasting answer about the pull Secret of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullSecretStatus<'a> {
    /// A Secret of this name is there.
    Ready {
        /// The name of the Secret.
        name: Cow<'a, str>,
    },
    /// The copies can be pulled without credentials.
    NotNeeded,
}

/// An answer that may soon change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// What kind of no it is.
    pub kind: RefusalKind,
    /// Why, in a few words, on one line.
    pub reason: Cow<'a, str>,
}

/// The kinds of [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The copy is being made.
    Pending,
    /// The copy could not be made.
    Failed,
    /// The sidecar cannot tell, for example because the backup registry does not answer.
    Unavailable,
}

impl<'a> ImageStatus<'a> {
    /// The same answer, naming the pull Secret that whoever uses the backup needs.
    #[must_use]
    pub fn naming_secret(mut self, name: Option<&'a str>) -> Self {
        match &mut self {
            Self::Mirrored { secret, .. } | Self::InBackup { secret, .. } => {
                *secret = name.map(Cow::Borrowed);
            }
            Self::Excluded { .. } => {}
        }
        self
    }

    /// The annotations that carry this answer.
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
            Self::InBackup { secret, is_former } => {
                let mut annotations = Vec::from([(STATE, "in-backup".to_string())]);
                if *is_former {
                    annotations.push((NAME, FORMER.to_string()));
                }
                annotations.extend(secret_annotation(secret.as_deref()));
                annotations
            }
            Self::Excluded { reason } => Vec::from([
                (STATE, "excluded".to_string()),
                (REASON, reason.to_string()),
            ]),
        }
    }

    /// Reads the answer from annotations, which `get` looks up by key; `None` if they carry none.
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
            "in-backup" => Some(Self::InBackup {
                is_former: get(NAME) == Some(FORMER),
                secret: secret_name(get),
            }),
            "excluded" => Some(Self::Excluded {
                reason: Cow::Borrowed(get(REASON).unwrap_or_default()),
            }),
            _ => None,
        }
    }
}

/// Whether a Secret can have this name (RFC 1123 subdomain).
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

/// A copy that was asked for by digest is named without it, since the digest has an annotation of its own.
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
    /// The annotations that carry this answer.
    #[must_use]
    pub fn annotations(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Ready { name } => {
                Vec::from([(STATE, "ready".to_string()), (SECRET, name.to_string())])
            }
            Self::NotNeeded => Vec::from([(STATE, "not-needed".to_string())]),
        }
    }

    /// Reads the answer from annotations, which `get` looks up by key; `None` if they carry none.
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
    /// A refusal of one line. Whatever would end the reason early in the host's wrapping is replaced; a long reason is cut
    /// after a word.
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
            // The mark takes two characters.
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

    /// Finds a refusal anywhere in the text of an error, however the host wrapped it.
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
