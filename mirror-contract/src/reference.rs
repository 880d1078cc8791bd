//! Image references of Kubernetes.
//!
//! Grammar and normalisation are those of the package `distribution/reference`: without a registry, it is `docker.io`; a
//! single name there is in `library/`; without tag and digest, the tag is `latest`.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use core::fmt;

use crate::digest::Digest;
use crate::{MAX_REPOSITORY, MAX_TAG, grammar};

/// The registry of references without one.
pub const DOCKER_HUB: &str = "docker.io";
/// Other hosts of Docker Hub: its older names, and the host of its API. They serve the same images.
const DOCKER_HUB_ALIASES: [&str; 3] = [
    "index.docker.io",
    "registry-1.docker.io",
    "registry.hub.docker.com",
];
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";

/// A normalised image reference: registry, repository, and a tag, a digest, or both.
///
/// It borrows from the text that it was parsed from, except for parts that normalisation changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRef<'a> {
    host: Cow<'a, str>,
    path: Cow<'a, str>,
    version: Version<'a>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Version<'a> {
    Tag(Cow<'a, str>),
    Digest(Digest<'a>),
    Both(Cow<'a, str>, Digest<'a>),
}

/// Why a text is not an image reference. Displayed as a sentence that does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// The text is empty.
    Empty,
    /// The part before the first `/` is not a host name with an optional port.
    Host,
    /// The first part is in upper case and has no dot or port: some parsers take it for a registry, others return an error.
    AmbiguousHost,
    /// The repository has characters other than lower-case letters, digits, and single separators.
    Repository,
    /// The repository is longer than [`MAX_REPOSITORY`].
    RepositoryTooLong,
    /// 64 hexadecimal digits, which container runtimes take for an image ID.
    ImageId,
    /// The tag has an invalid character, or is longer than [`MAX_TAG`].
    Tag,
    /// The digest is not `sha256:`, `sha384:` or `sha512:` with the right number of lower-case hexadecimal digits.
    Digest,
}

impl<'a> ImageRef<'a> {
    /// Parses and normalises `[host[:port]/]path[:tag][@digest]`.
    ///
    /// # Errors
    /// [`ParseError`] names the invalid part.
    pub fn parse(text: &'a str) -> Result<Self, ParseError> {
        if text.is_empty() {
            return Err(ParseError::Empty);
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest = Digest::parse(digest).ok_or(ParseError::Digest)?;
                (name, Some(digest))
            }
            None => (text, None),
        };
        let (host, rest) = split_host(name)?;
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) if grammar::is_tag(tag) => (path, Some(Cow::Borrowed(tag))),
            Some(_) => return Err(ParseError::Tag),
            None => (rest, None),
        };
        let path = normal_path(&host, path)?;
        let version = match (tag, digest) {
            (None, None) => Version::Tag(Cow::Borrowed(DEFAULT_TAG)),
            (Some(tag), None) => Version::Tag(tag),
            (None, Some(digest)) => Version::Digest(digest),
            (Some(tag), Some(digest)) => Version::Both(tag, digest),
        };
        Ok(Self {
            host,
            path,
            version,
        })
    }

    /// Returns the registry in lower case, with its port if it has one: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the repository without its registry: `library/nginx`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the tag: `latest` if the text has neither tag nor digest, `None` if it has a digest alone.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        match &self.version {
            Version::Tag(tag) | Version::Both(tag, _) => Some(tag),
            Version::Digest(_) => None,
        }
    }

    /// Returns the digest, if the image is pinned.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest<'a>> {
        match &self.version {
            Version::Digest(digest) | Version::Both(_, digest) => Some(digest),
            Version::Tag(_) => None,
        }
    }

    /// Drops the tag if there is a digest, which alone identifies the manifest.
    #[must_use]
    pub fn without_redundant_tag(self) -> Self {
        let version = match self.version {
            Version::Both(_, digest) => Version::Digest(digest),
            other => other,
        };
        Self { version, ..self }
    }

    /// Returns the same image with this digest instead of any other. A tag stays.
    #[must_use]
    pub fn with_digest(self, digest: Digest<'a>) -> Self {
        let version = match self.version {
            Version::Tag(tag) | Version::Both(tag, _) => Version::Both(tag, digest),
            Version::Digest(_) => Version::Digest(digest),
        };
        Self { version, ..self }
    }

    /// Returns the same reference with owned text.
    #[must_use]
    pub fn into_owned(self) -> ImageRef<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        ImageRef {
            host: own(self.host),
            path: own(self.path),
            version: match self.version {
                Version::Tag(tag) => Version::Tag(own(tag)),
                Version::Digest(digest) => Version::Digest(digest.into_owned()),
                Version::Both(tag, digest) => Version::Both(own(tag), digest.into_owned()),
            },
        }
    }
}

/// Splits off the registry as `splitDockerDomain` of distribution/reference does, in lower case.
fn split_host(name: &str) -> Result<(Cow<'_, str>, &str), ParseError> {
    let Some((first, rest)) = name.split_once('/') else {
        return Ok((Cow::Borrowed(DOCKER_HUB), name));
    };
    if !first.contains(['.', ':']) && first != "localhost" {
        if first.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ParseError::AmbiguousHost);
        }
        return Ok((Cow::Borrowed(DOCKER_HUB), name));
    }
    if !grammar::is_host(first) {
        return Err(ParseError::Host);
    }
    let host = if first.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(first.to_ascii_lowercase())
    } else {
        Cow::Borrowed(first)
    };
    if is_docker_hub(&host) {
        return Ok((Cow::Borrowed(DOCKER_HUB), rest));
    }
    Ok((host, rest))
}

/// Returns whether `host`, in lower case, is Docker Hub: under any of its names, with or without the port 443.
#[must_use]
pub fn is_docker_hub(host: &str) -> bool {
    let name = grammar::without_default_port(host);
    name == DOCKER_HUB || DOCKER_HUB_ALIASES.contains(&name)
}

fn normal_path<'a>(host: &str, path: &'a str) -> Result<Cow<'a, str>, ParseError> {
    if path.len() == 64 && path.bytes().all(|byte| byte.is_ascii_hexdigit()) && host == DOCKER_HUB {
        return Err(ParseError::ImageId);
    }
    let path = if host == DOCKER_HUB && !path.contains('/') {
        Cow::Owned(format!("{OFFICIAL}{path}"))
    } else {
        Cow::Borrowed(path)
    };
    if path.len() > MAX_REPOSITORY {
        return Err(ParseError::RepositoryTooLong);
    }
    if !grammar::is_path(&path) {
        return Err(ParseError::Repository);
    }
    Ok(path)
}

impl fmt::Display for ImageRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
            Version::Both(tag, digest) => write!(f, ":{tag}@{digest}"),
        }
    }
}

impl core::str::FromStr for ImageRef<'static> {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        ImageRef::parse(text).map(ImageRef::into_owned)
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: String = match self {
            Self::Empty => "an image reference cannot be empty".into(),
            Self::Host => "the registry must be a host name with an optional port".into(),
            Self::AmbiguousHost => {
                "a registry in upper case must have a dot or a port".into()
            }
            Self::Repository => "the repository must be lower-case letters and digits, \
                separated by single `.`, `_`, `__`, hyphens or `/`"
                .into(),
            Self::RepositoryTooLong => {
                format!("the repository is longer than {MAX_REPOSITORY} characters")
            }
            Self::ImageId => "64 hexadecimal digits are an image ID, not a repository".into(),
            Self::Tag => format!(
                "the tag must be at most {MAX_TAG} letters, digits, `_`, `.` or `-`, and start with neither `.` nor `-`"
            ),
            Self::Digest => "the digest must be sha256, sha384 or sha512 with all its lower-case hexadecimal digits".into(),
        };
        f.write_str(&text)
    }
}

impl core::error::Error for ParseError {}
