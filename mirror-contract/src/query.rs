//! Requests of the policy, encoded as references of manifests: to Kubewarden, the sidecar looks like a registry.
//!
//! A query names an image and never a workload: Kubewarden's host keeps every distinct reference in memory forever, and
//! shares successful responses between all policies for 60 seconds.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use core::fmt;

use crate::backup_name::BackupName;
use crate::digest::Digest;
use crate::reference::ImageRef;
use crate::{MAX_REPOSITORY, Unsupported, grammar};

const TAG: &str = "tag/";
const DIGEST: &str = "digest/";
const PEEK: &str = "peek/";
const BACKUP: &str = "backup/";
const TARGET: &str = "target/";
const ORIGINAL: &str = "original/";
const PULL_SECRET: &str = "pull-secret/";
/// A pull Secret has no versions, so its reference has the default tag.
const PULL_SECRET_TAG: &str = "latest";

/// A request of the policy to the sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query<'a> {
    /// Requests the status of an image.
    Image {
        /// The image, by tag or by digest, never both.
        image: ImageRef<'a>,
        /// Where workloads would pull it.
        place: Place<'a>,
        /// Whether the request starts a copy.
        mode: Mode,
    },
    /// Requests the name of the pull Secret of a namespace.
    PullSecret {
        /// A Kubernetes namespace (RFC 1123 label).
        namespace: Cow<'a, str>,
        /// Whether the request creates the Secret.
        mode: Mode,
    },
}

/// Where workloads would pull an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// From its copy in this backup.
    Backup(BackupName<'a>),
    /// From the place that the image itself names, the target of a rewrite. Nothing is copied.
    Target,
    /// From its own registry, by digest, while this backup is unavailable. Nothing is copied.
    Original(BackupName<'a>),
}

/// Whether a request has side effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Copies the image if it is not mirrored, creates the Secret if it is missing.
    Ensure,
    /// No side effects, for dry-run requests.
    Peek,
}

/// The address of the sidecar as the host of a registry: `host[:port]` in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar<'a>(Cow<'a, str>);

/// Why a manifest request is not a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The repository starts with no known prefix.
    UnknownKind,
    /// The registry is invalid or not normalised.
    Host,
    /// Repository and tag are not an image in normal form.
    Image,
    /// The namespace is invalid, or the tag is not `latest`.
    Namespace,
    /// The backup is not an RFC 1123 label, or is the default, which a request does not name.
    Backup,
}

impl Mode {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Ensure => "",
            Self::Peek => PEEK,
        }
    }
}

impl<'a> Sidecar<'a> {
    /// Parses `host[:port]`; returns `None` for anything else. The host is a DNS name or an IPv4 address in lower case. Without
    /// a port, it must contain a dot or be `localhost`, or parsers of references take it for a repository on Docker Hub.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let (name, port) = grammar::split_port(text);
        let is_registry = text.contains(['.', ':']) || text == "localhost";
        let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        let is_port = |port: &str| grammar::is_port(port) && port.parse::<u16>().is_ok();
        (is_registry && is_lower && grammar::is_dns_name(name) && port.is_none_or(is_port))
            .then_some(Self(Cow::Borrowed(text)))
    }

    /// Returns the text that it was parsed from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the same address with owned text.
    #[must_use]
    pub fn into_owned(self) -> Sidecar<'static> {
        Sidecar(Cow::Owned(self.0.into_owned()))
    }
}

impl<'a> Query<'a> {
    /// Returns the request for `image` in the default backup. A tag beside a digest is dropped, since the digest alone decides.
    #[must_use]
    pub fn image(image: ImageRef<'a>, mode: Mode) -> Self {
        Self::image_in(Place::Backup(BackupName::DEFAULT), image, mode)
    }

    /// Returns the request for `image` in `place`: the original of a copy, or an image that is already rewritten to its target.
    #[must_use]
    pub fn image_in(place: Place<'a>, image: ImageRef<'a>, mode: Mode) -> Self {
        Self::Image {
            image: image.without_redundant_tag(),
            place,
            mode,
        }
    }

    /// Returns the request for the pull Secret of `namespace`, or `None` if that is not an RFC 1123 label.
    #[must_use]
    pub fn pull_secret(namespace: &'a str, mode: Mode) -> Option<Self> {
        grammar::is_namespace(namespace).then_some(Self::PullSecret {
            namespace: Cow::Borrowed(namespace),
            mode,
        })
    }

    /// Returns the reference that the policy passes to the host.
    ///
    /// # Errors
    /// [`Unsupported`] if the image cannot be encoded.
    pub fn encode(&self, sidecar: &Sidecar<'_>) -> Result<String, Unsupported> {
        let (repository, tag) = match self {
            Self::PullSecret { namespace, mode } => (
                format!("{}{PULL_SECRET}{namespace}", mode.prefix()),
                Cow::Borrowed(PULL_SECRET_TAG),
            ),
            Self::Image { image, place, mode } => {
                let (kind, tag) = match image.digest() {
                    Some(digest) if !digest.fits_into_tag() => {
                        return Err(Unsupported::LongDigest);
                    }
                    Some(digest) => (DIGEST, Cow::Owned(digest.to_tag_form())),
                    None => (TAG, Cow::Borrowed(image.tag().unwrap_or_default())),
                };
                let host = encode_host(image.host())?;
                (
                    format!("{}{place}{kind}{host}/{}", mode.prefix(), image.path()),
                    tag,
                )
            }
        };
        if repository.len() > MAX_REPOSITORY {
            return Err(Unsupported::TooLong);
        }
        Ok(format!("{}/{repository}:{tag}", sidecar.as_str()))
    }

    /// Parses the repository and the tag of a manifest request: the reverse of [`Self::encode`].
    ///
    /// # Errors
    /// [`DecodeError`] if this is not a query.
    pub fn decode(repository: &'a str, tag: &'a str) -> Result<Query<'static>, DecodeError> {
        let (rest, mode) = match repository.strip_prefix(PEEK) {
            Some(rest) => (rest, Mode::Peek),
            None => (repository, Mode::Ensure),
        };
        if let Some(namespace) = rest.strip_prefix(PULL_SECRET) {
            if tag != PULL_SECRET_TAG || !grammar::is_namespace(namespace) {
                return Err(DecodeError::Namespace);
            }
            return Ok(Query::PullSecret {
                namespace: Cow::Owned(namespace.into()),
                mode,
            });
        }
        let (place, rest) = decode_place(rest)?;
        let is_original = matches!(place, Place::Original(_));
        let (name, version) = if let Some(name) = rest.strip_prefix(TAG).filter(|_| !is_original) {
            (name, format!(":{tag}"))
        } else if let Some(name) = rest.strip_prefix(DIGEST) {
            let digest = Digest::parse_tag_form(tag)
                .filter(Digest::fits_into_tag)
                .ok_or(DecodeError::Image)?;
            (name, format!("@{digest}"))
        } else {
            return Err(DecodeError::UnknownKind);
        };
        let (host, path) = name.split_once('/').ok_or(DecodeError::Image)?;
        let host = decode_host(host).ok_or(DecodeError::Host)?;
        let image = canonical(&host, path, &version).ok_or(DecodeError::Image)?;
        Ok(Query::Image { image, place, mode })
    }
}

/// Splits off the place: nothing for the default backup, `backup/<name>/` for another one, either of them followed by
/// `original/`, or `target/`. No registry of an image comes first, so these prefixes have one meaning.
fn decode_place(rest: &str) -> Result<(Place<'static>, &str), DecodeError> {
    if let Some(rest) = rest.strip_prefix(TARGET) {
        return Ok((Place::Target, rest));
    }
    let (name, rest) = match rest.strip_prefix(BACKUP) {
        None => (BackupName::DEFAULT, rest),
        Some(named) => {
            let (name, rest) = named.split_once('/').ok_or(DecodeError::Backup)?;
            let name = BackupName::parse(name).filter(|name| !name.is_default());
            (name.ok_or(DecodeError::Backup)?.into_owned(), rest)
        }
    };
    Ok(match rest.strip_prefix(ORIGINAL) {
        Some(rest) => (Place::Original(name), rest),
        None => (Place::Backup(name), rest),
    })
}

/// A host as a path component: `host:5000` becomes `host_5000`, and `_` never occurs in a host name.
pub(crate) fn encode_host(host: &str) -> Result<String, Unsupported> {
    if host.starts_with('[') {
        return Err(Unsupported::Ipv6Host);
    }
    Ok(host.replacen(':', "_", 1))
}

/// The reverse of [`encode_host`]; `None` for anything else.
pub(crate) fn decode_host(component: &str) -> Option<String> {
    match component.split_once('_') {
        None => Some(component.into()),
        Some((name, port)) => grammar::is_port(port).then(|| format!("{name}:{port}")),
    }
}

/// Parses `host/path` + `version`; returns `None` if it is not in normal form.
pub(crate) fn canonical(host: &str, path: &str, version: &str) -> Option<ImageRef<'static>> {
    let text = format!("{host}/{path}{version}");
    let image = ImageRef::parse(&text).ok()?;
    (image.host() == host && image.path() == path).then(|| image.into_owned())
}

/// The prefix of a query.
impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, end) = match self {
            Self::Backup(name) => (name, ""),
            Self::Original(name) => (name, ORIGINAL),
            Self::Target => return f.write_str(TARGET),
        };
        if !name.is_default() {
            write!(f, "{BACKUP}{name}/")?;
        }
        f.write_str(end)
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownKind => {
                "the repository must start with tag/, digest/ or pull-secret/, optionally after peek/, backup/<name>/, original/ \
                 or target/"
            }
            Self::Host => "the registry must be a lower-case host name, with its port as _5000",
            Self::Image => "the registry must be followed by a normalised repository, with a tag or sha256-<hex>",
            Self::Backup => {
                "backup/ must be followed by the name of a backup other than the default"
            }
            Self::Namespace => {
                "pull-secret/ must be followed by a namespace, with the tag latest"
            }
        })
    }
}

impl core::error::Error for DecodeError {}
