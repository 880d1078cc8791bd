//! Targets of rewrites: existing mirrors and pull-through caches.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString as _};
use core::fmt;

use crate::query::canonical;
use crate::reference::{DOCKER_HUB, is_docker_hub};
use crate::{ImageRef, MAX_REPOSITORY, Unsupported, grammar};

/// The location of a mirror: `host[:port][/path]` in lower case. It replaces the registry of an image; the repository is
/// appended, and tag and digest stay: with `harbor.example.com/hub`, `docker.io/library/nginx:1.27` becomes
/// `harbor.example.com/hub/library/nginx:1.27`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewriteTarget<'a>(Cow<'a, str>);

impl<'a> RewriteTarget<'a> {
    /// Parses a target. Returns `None` if it has no host (`hub/library`), is not in lower case, leaves no room for repositories,
    /// or is Docker Hub under another name than `docker.io`, or without an account, where there are no repositories.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let (host, path) = match text.split_once('/') {
            Some((host, path)) => (host, Some(path)),
            None => (text, None),
        };
        let is_registry = host.contains(['.', ':']) || host == "localhost";
        let is_lower = !host.bytes().any(|byte| byte.is_ascii_uppercase());
        let is_path = match path {
            Some(path) => grammar::is_path(path) && (host == DOCKER_HUB || !is_docker_hub(host)),
            None => !is_docker_hub(host),
        };
        let fits = text.len() <= MAX_REPOSITORY / 2;
        (is_registry && is_lower && grammar::is_host(host) && is_path && fits)
            .then_some(Self(Cow::Borrowed(text)))
    }

    /// Returns `image` at this target.
    ///
    /// # Errors
    /// [`Unsupported::TooLong`] if there is no such reference.
    pub fn rewrite(&self, image: &ImageRef<'_>) -> Result<ImageRef<'static>, Unsupported> {
        let text = image.to_string();
        let rest = text.strip_prefix(image.host()).unwrap_or_default();
        ImageRef::parse(&format!("{self}{rest}"))
            .map(ImageRef::into_owned)
            .map_err(|_| Unsupported::TooLong)
    }

    /// Returns the image of `registry` that [`Self::rewrite`] turns into `image`; `None` if there is none.
    #[must_use]
    pub fn original(&self, image: &ImageRef<'_>, registry: &str) -> Option<ImageRef<'static>> {
        let (host, prefix) = self.parts();
        let path = image.path();
        let path = match prefix {
            "" => path,
            prefix => path.strip_prefix(prefix)?.strip_prefix('/')?,
        };
        (image.host() == host).then(|| canonical(registry, path, &version(image)))?
    }

    /// Returns whether `image` is below this target.
    #[must_use]
    pub fn contains(&self, image: &ImageRef<'_>) -> bool {
        let (host, prefix) = self.parts();
        is_same_host(image.host(), host) && is_below(image.path(), prefix)
    }

    /// Returns whether this target and another location, `registry[/repository]`, have repositories in common.
    #[must_use]
    pub fn overlaps(&self, location: &str) -> bool {
        let ((host, path), (other_host, other_path)) = (self.parts(), split(location));
        is_same_host(host, other_host)
            && (path == other_path || is_below(path, other_path) || is_below(other_path, path))
    }

    /// Returns the same target with owned text.
    #[must_use]
    pub fn into_owned(self) -> RewriteTarget<'static> {
        RewriteTarget(Cow::Owned(self.0.into_owned()))
    }

    /// Returns the registry, `host[:port]`.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.parts().0
    }

    /// Returns the path that repositories are appended to; empty if there is none.
    #[must_use]
    pub fn repository(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        split(&self.0)
    }
}

fn split(location: &str) -> (&str, &str) {
    location.split_once('/').unwrap_or((location, ""))
}

fn is_same_host(first: &str, second: &str) -> bool {
    grammar::without_default_port(first) == grammar::without_default_port(second)
}

/// Whether `path` is inside `folder`, which may be empty.
fn is_below(path: &str, folder: &str) -> bool {
    let rest = path.strip_prefix(folder);
    folder.is_empty() || rest.is_some_and(|rest| rest.starts_with('/'))
}

fn version(image: &ImageRef<'_>) -> String {
    let mut version = String::new();
    if let Some(tag) = image.tag() {
        version.push(':');
        version.push_str(tag);
    }
    if let Some(digest) = image.digest() {
        version.extend(["@", &digest.to_string()]);
    }
    version
}

impl fmt::Display for RewriteTarget<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
