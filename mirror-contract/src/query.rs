//! What the policy asks, encoded as the reference of a manifest in the registry that the sidecar seems to be.
//!
//! A query names an image and never the workload: Kubewarden's host keeps every distinct query string in memory for
//! ever, and shares successful answers between all policies for 60 seconds.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use core::fmt;

use crate::digest::Digest;
use crate::reference::ImageRef;
use crate::{MAX_REPOSITORY, Unsupported, grammar};

const TAG: &str = "tag/";
const DIGEST: &str = "digest/";
const PEEK: &str = "peek/";
const PULL_SECRET: &str = "pull-secret/";
/// A pull Secret has no versions; this is the tag that a reference without one has anyway.
const PULL_SECRET_TAG: &str = "latest";

/// A question to the sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query<'a> {
    /// Is this image mirrored? Where it has a digest, its tag is not part of the question.
    Image {
        /// The image.
        image: ImageRef<'a>,
        /// Whether asking starts a copy.
        mode: Mode,
    },
    /// Which pull Secret do Pods of this namespace need?
    PullSecret {
        /// A Kubernetes namespace (RFC 1123 label).
        namespace: Cow<'a, str>,
        /// Whether asking makes sure that the Secret is there.
        mode: Mode,
    },
}

/// Whether a question has the side effect that its answer becomes a yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Copy the image if it is not mirrored, create the Secret if it is missing.
    Ensure,
    /// Only look: for dry-run requests.
    Peek,
}

/// Where the sidecar listens, in the form that the host uses as a registry: `host:port`, lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar<'a>(&'a str);

/// Why a manifest request is not a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The repository starts with none of the known words.
    UnknownKind,
    /// The host part is not one, or not normalised.
    Host,
    /// What remains is not an image reference in its normal form.
    Image,
    /// Not a Kubernetes namespace, or not asked with the tag `latest`.
    Namespace,
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
    /// Takes `host:port` or `host`. The host is a DNS name or IPv4 address in lower case; without a port it needs a dot
    /// (or to be `localhost`), else every parser of references takes it for a repository on Docker Hub.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let (name, port) = grammar::split_port(text);
        let is_registry = text.contains(['.', ':']) || text == "localhost";
        let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        let is_port = |port: &str| grammar::is_port(port) && port.parse::<u16>().is_ok();
        (is_registry && is_lower && grammar::is_dns_name(name) && port.is_none_or(is_port))
            .then_some(Self(text))
    }

    /// The text it was parsed from.
    #[must_use]
    pub fn as_str(&self) -> &'a str {
        self.0
    }
}

impl<'a> Query<'a> {
    /// The question about `image`. A tag next to a digest is dropped, since the digest alone decides.
    #[must_use]
    pub fn image(image: ImageRef<'a>, mode: Mode) -> Self {
        Self::Image {
            image: image.without_redundant_tag(),
            mode,
        }
    }

    /// The question about the pull Secret of `namespace`; `None` if that is not a namespace's name.
    #[must_use]
    pub fn pull_secret(namespace: &'a str, mode: Mode) -> Option<Self> {
        grammar::is_namespace(namespace).then_some(Self::PullSecret {
            namespace: Cow::Borrowed(namespace),
            mode,
        })
    }

    /// The reference to ask the host for.
    ///
    /// # Errors
    /// [`Unsupported`] when the image cannot be written as such a reference.
    pub fn encode(&self, sidecar: &Sidecar<'_>) -> Result<String, Unsupported> {
        let (repository, tag) = match self {
            Self::PullSecret { namespace, mode } => (
                format!("{}{PULL_SECRET}{namespace}", mode.prefix()),
                Cow::Borrowed(PULL_SECRET_TAG),
            ),
            Self::Image { image, mode } => {
                let (kind, tag) = match image.digest() {
                    Some(digest) if !digest.fits_into_tag() => {
                        return Err(Unsupported::LongDigest);
                    }
                    Some(digest) => (DIGEST, Cow::Owned(digest.to_tag_form())),
                    None => (TAG, Cow::Borrowed(image.tag().unwrap_or_default())),
                };
                let host = encode_host(image.host())?;
                (
                    format!("{}{kind}{host}/{}", mode.prefix(), image.path()),
                    tag,
                )
            }
        };
        if repository.len() > MAX_REPOSITORY {
            return Err(Unsupported::TooLong);
        }
        Ok(format!("{}/{repository}:{tag}", sidecar.as_str()))
    }

    /// Understands the repository and the tag of a manifest request.
    ///
    /// # Errors
    /// [`DecodeError`] says why this is not a query.
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
        let (name, version) = if let Some(name) = rest.strip_prefix(TAG) {
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
        Ok(Query::Image { image, mode })
    }
}

/// A host as a path component: `host:5000` becomes `host_5000`, and `_` never occurs in a host name.
pub(crate) fn encode_host(host: &str) -> Result<String, Unsupported> {
    if host.starts_with('[') {
        return Err(Unsupported::Ipv6Host);
    }
    Ok(host.replacen(':', "_", 1))
}

/// The reverse of [`encode_host`]; `None` for what it never gives.
pub(crate) fn decode_host(component: &str) -> Option<String> {
    match component.split_once('_') {
        None => Some(component.into()),
        Some((name, port)) => grammar::is_port(port).then(|| format!("{name}:{port}")),
    }
}

/// The image `host/path` + `version`, if that is how its normal form is written.
pub(crate) fn canonical(host: &str, path: &str, version: &str) -> Option<ImageRef<'static>> {
    let text = format!("{host}/{path}{version}");
    let image = ImageRef::parse(&text).ok()?;
    (image.host() == host && image.path() == path).then(|| image.into_owned())
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownKind => {
                "only tag/…, digest/… and pull-secret/… can be asked for, each also after peek/"
            }
            Self::Host => "the registry must be a lower-case host name, its port written as _5000",
            Self::Image => "what follows the registry must be a normalised repository and its tag or sha256-<hex>",
            Self::Namespace => {
                "pull-secret/ must be followed by a namespace, and asked for with the tag latest"
            }
        })
    }
}

impl core::error::Error for DecodeError {}
