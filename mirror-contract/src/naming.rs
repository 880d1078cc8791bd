//! Names of copies in the backup registry, and the originals of copies.
//!
//! Different images always have different names, and the original can be derived from every name that is not shortened. A
//! name that would be too long is cut, and its host gets `__` and a hash of the whole name. No host name and no encoded port
//! contains `__`, so the name differs from those of all other images. Where a registry allows less than the distribution
//! specification, names are escaped ([`RegistryRules`]).

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use core::fmt;

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
pub use crate::naming_scheme::Naming;
use crate::query::{canonical, decode_host, encode_host};
use crate::reference::{DOCKER_HUB, ImageRef, is_docker_hub};
pub use crate::registry_rules::NamingError;
use crate::registry_rules::RegistryRules;
use crate::{MAX_REPOSITORY, MAX_TAG, RewriteTarget, Unsupported, grammar};

const ANCHOR_SUFFIX: &str = ".mirror";
/// 128 bits: collision-resistant, and short enough to leave room for the name.
const HASH_BYTES: usize = 16;

/// The location of copies: a registry, a repository prefix, and the naming below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    registry: String,
    repository: String,
    naming: Naming,
    rules: RegistryRules,
}

/// How the reference of a copy relates to its original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The copy is the reference that [`Backup::target`] returns.
    Exact,
    /// The copy has a digest as well, while the original has a tag alone. The digest may be that of any image that was ever
    /// copied from this repository.
    Pinned,
}

/// The invalid part of a backup location. Displayed as a sentence with examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupError {
    /// The registry is not `host[:port]`.
    Registry,
    /// The repository is not a path of lower-case components, or leaves no room for names.
    Repository,
}

/// Returns the anchor tag of a digest, `sha256-<hex>.mirror`, which protects a manifest from the registry's garbage collection.
///
/// A SHA-512 digest does not fit into a tag ([`MAX_TAG`]), so its anchor is cut. The rest still identifies the digest.
#[must_use]
pub fn anchor_tag(digest: &Digest<'_>) -> String {
    let mut tag = digest.to_tag_form();
    tag.truncate(MAX_TAG - ANCHOR_SUFFIX.len());
    tag.push_str(ANCHOR_SUFFIX);
    tag
}

/// Returns the digest of an anchor tag, or `None` for a cut anchor and any other tag.
#[must_use]
pub fn anchored_digest(tag: &str) -> Option<Digest<'_>> {
    Digest::parse_tag_form(tag.strip_suffix(ANCHOR_SUFFIX)?)
}

impl Relation {
    /// Returns how `image` relates to `expected`: it must have the same name and tag, and the same digest if that has one.
    pub(crate) fn between(image: &ImageRef<'_>, expected: &ImageRef<'_>) -> Option<Self> {
        let is_there = image.host() == expected.host()
            && image.path() == expected.path()
            && image.tag() == expected.tag();
        match (image.digest(), expected.digest()) {
            _ if !is_there => None,
            (image, expected) if image == expected => Some(Self::Exact),
            (Some(_), None) => Some(Self::Pinned),
            _ => None,
        }
    }
}

impl Backup {
    /// Returns the backup at `registry` (`host[:port]`) and `repository`, which may be empty: copies are then directly below the
    /// registry.
    ///
    /// # Errors
    /// [`BackupError`] names the invalid part.
    pub fn new(registry: &str, repository: &str, naming: Naming) -> Result<Self, BackupError> {
        let registry = match registry.to_ascii_lowercase() {
            alias if is_docker_hub(&alias) => DOCKER_HUB.to_owned(),
            registry => registry,
        };
        let is_registry = registry.contains(['.', ':']) || registry == "localhost";
        if !is_registry || !grammar::is_host(&registry) {
            return Err(BackupError::Registry);
        }
        // Half of the longest name: a hash and a recognisable rest always fit into the other half.
        let fits = registry.len() + repository.len() <= MAX_REPOSITORY / 2;
        // Docker Hub has no repositories outside of accounts.
        let may_be_empty = registry != DOCKER_HUB;
        let is_valid = match repository {
            "" => may_be_empty,
            repository => fits && grammar::is_path(repository),
        };
        if !is_valid {
            return Err(BackupError::Repository);
        }
        Ok(Self {
            rules: RegistryRules::of(&registry),
            registry,
            repository: repository.to_owned(),
            naming,
        })
    }

    /// Returns the backup at `location`, `registry[/repository]` in lower case, with each [`Naming`], since it may have copies of
    /// both; `None` if the location is invalid.
    #[must_use]
    pub fn with_both_namings(location: &str) -> Option<[Self; 2]> {
        let (registry, repository) = location.split_once('/').unwrap_or((location, ""));
        if location.ends_with('/') || registry.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        let backup = |naming| Self::new(registry, repository, naming).ok();
        Some([backup(Naming::Flat)?, backup(Naming::Nested)?])
    }

    /// Returns the same location with the other [`Naming`].
    #[must_use]
    pub fn with_other_naming(&self) -> Self {
        let naming = match self.naming {
            Naming::Flat => Naming::Nested,
            Naming::Nested => Naming::Flat,
        };
        Self {
            naming,
            ..self.clone()
        }
    }

    /// Returns whether the backup is a part of its registry, and not all of it.
    #[must_use]
    pub fn has_repository(&self) -> bool {
        !self.repository.is_empty()
    }

    /// Checks whether the registry accepts the names of copies, as far as its host name tells. A former backup needs no check,
    /// since nothing is pushed there.
    ///
    /// # Errors
    /// [`NamingError`] names the limit of the registry.
    pub fn check_naming(&self) -> Result<(), NamingError> {
        self.rules.check(&self.repository, self.naming)
    }

    /// Returns the naming of copies.
    #[must_use]
    pub const fn naming(&self) -> Naming {
        self.naming
    }

    /// Returns the registry, `host[:port]`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns the registry and the repository, as `registry[/repository]`.
    #[must_use]
    pub fn location(&self) -> String {
        match self.repository.as_str() {
            "" => self.registry.clone(),
            repository => format!("{}/{repository}", self.registry),
        }
    }

    /// Returns the repository; empty if the backup is the whole registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns whether the backup and `target` have repositories in common.
    #[must_use]
    pub fn overlaps(&self, target: &RewriteTarget<'_>) -> bool {
        target.overlaps(&self.location())
    }

    /// Returns whether the location of `other` is inside that of this backup, or the same.
    #[must_use]
    pub fn encloses(&self, other: &Self) -> bool {
        let is_inside =
            self.repository == other.repository || self.below_prefix(&other.repository).is_some();
        self.is_at(&other.registry) && is_inside
    }

    /// Returns whether `image` is in the backup's repository, and must therefore not be copied.
    #[must_use]
    pub fn contains(&self, image: &ImageRef<'_>) -> bool {
        self.is_at(image.host()) && self.below_prefix(image.path()).is_some()
    }

    /// Returns the repository of the copies of `image`, without the registry: `acme/docker.io-library-nginx`.
    ///
    /// # Errors
    /// [`Unsupported`] if the image has no such name.
    pub fn repository_for(&self, image: &ImageRef<'_>) -> Result<String, Unsupported> {
        let host = encode_host(image.host())?;
        let prefix = match self.repository.as_str() {
            "" => String::new(),
            repository => format!("{repository}/"),
        };
        // Older container runtimes apply the limit to registry and repository together.
        let room = MAX_REPOSITORY.saturating_sub(self.registry.len() + 1);
        let room = room.min(self.rules.max_repository());
        let room = room.saturating_sub(prefix.len());
        let whole = self.naming.join(&host, image.path());
        let whole = self.rules.escape(&whole).into_owned();
        let name = if whole.len() <= room {
            whole
        } else {
            self.shortened(&host, image.path(), room)?
        };
        Ok(format!("{prefix}{name}"))
    }

    /// Returns the reference of the copy of `image`: [`Self::repository_for`] it, with the same tag and digest.
    ///
    /// # Errors
    /// [`Unsupported`] if the image has no such reference.
    pub fn target(&self, image: &ImageRef<'_>) -> Result<ImageRef<'static>, Unsupported> {
        let mut text = format!("{}/{}", self.registry, self.repository_for(image)?);
        if let Some(tag) = image.tag() {
            if anchored_digest(tag).is_some() {
                return Err(Unsupported::ReservedTag);
            }
            text = format!("{text}:{tag}");
        }
        if let Some(digest) = image.digest() {
            if !digest.fits_into_tag() {
                return Err(Unsupported::LongDigest);
            }
            text = format!("{text}@{digest}");
        }
        ImageRef::parse(&text)
            .map(ImageRef::into_owned)
            .map_err(|_| Unsupported::TooLong)
    }

    /// Returns the original of `copy`, if [`Self::target`] of that original has this repository.
    ///
    /// Unlike [`Self::source`], it returns `None` for the copy of a copy, and for an image that only looks like a copy.
    #[must_use]
    pub fn original(&self, copy: &ImageRef<'_>) -> Option<ImageRef<'static>> {
        let original = self.source(copy)?;
        let is_copy = !self.contains(&original)
            && self
                .target(&original)
                .is_ok_and(|target| target.path() == copy.path());
        is_copy.then_some(original)
    }

    /// Returns how `copy` relates to `original`, or `None` if it is not a copy of it in this backup.
    ///
    /// Unlike [`Self::source`], it also recognises names that were shortened.
    #[must_use]
    pub fn relation(&self, copy: &ImageRef<'_>, original: &ImageRef<'_>) -> Option<Relation> {
        Relation::between(copy, &self.target(original).ok()?)
    }

    /// Returns how `copy` relates to `original` in any possible backup: the host of `copy` and each prefix of its path are tried
    /// as registry and repository.
    #[must_use]
    pub fn any_relation(copy: &ImageRef<'_>, original: &ImageRef<'_>) -> Option<Relation> {
        let host = encode_host(original.host()).ok()?;
        let rules = RegistryRules::of(copy.host());
        let starts = [
            (Naming::Flat, double_hyphens(&host)),
            (Naming::Nested, host),
        ];
        let starts = starts.map(|(naming, host)| (naming, rules.escape(&host).into_owned()));
        let slashes = copy.path().match_indices('/').map(|(at, _)| at);
        let prefixes = slashes.filter_map(|at| copy.path().split_at_checked(at));
        let prefixes = core::iter::once(("", copy.path()))
            .chain(prefixes.map(|(repository, rest)| (repository, rest.trim_start_matches('/'))));
        // Making a name is expensive, and few prefixes are followed by the original's host.
        prefixes
            .flat_map(|(repository, name)| {
                let fits = |(_, host): &&(Naming, String)| name.starts_with(host.as_str());
                let namings = starts.iter().filter(fits);
                namings.map(move |(naming, _)| (repository, *naming))
            })
            .filter_map(|(repository, naming)| Self::new(copy.host(), repository, naming).ok())
            .find_map(|backup| backup.relation(copy, original))
    }

    /// Returns the original that the name of `copy` stands for; for an anchor tag, the original by digest.
    ///
    /// Returns `None` for an image that is not a copy in this backup, and for a shortened name.
    #[must_use]
    pub fn source(&self, copy: &ImageRef<'_>) -> Option<ImageRef<'static>> {
        if !self.is_at(copy.host()) {
            return None;
        }
        let name = self.rules.unescape(self.below_prefix(copy.path())?)?;
        let (host, path) = self.naming.split(&name)?;
        let host = decode_host(&host)?;
        let version = match (copy.tag(), copy.digest()) {
            (Some(tag), None) => match anchored_digest(tag) {
                Some(digest) => format!("@{digest}"),
                None => format!(":{tag}"),
            },
            (Some(tag), Some(digest)) => format!(":{tag}@{digest}"),
            (None, digest) => format!("@{}", digest?),
        };
        canonical(&host, &path, &version)
    }

    /// Returns whether this host is the backup registry, with or without the port 443.
    #[must_use]
    pub fn is_at(&self, host: &str) -> bool {
        grammar::without_default_port(host) == grammar::without_default_port(&self.registry)
    }

    fn below_prefix<'p>(&self, path: &'p str) -> Option<&'p str> {
        if self.repository.is_empty() {
            return Some(path);
        }
        path.strip_prefix(self.repository.as_str())?
            .strip_prefix('/')
    }

    fn shortened(&self, host: &str, path: &str, room: usize) -> Result<String, Unsupported> {
        let digest = Sha256::digest(format!("{host}/{path}"));
        let start = digest.iter().take(HASH_BYTES);
        let hash = start.fold(0u128, |hash, &byte| (hash << 8) | u128::from(byte));
        let hash = format!("{hash:032x}");
        let (host, separator, path) = match self.naming {
            Naming::Flat => (double_hyphens(host), '-', mangle(path)),
            Naming::Nested => (host.to_owned(), '/', path.to_owned()),
        };
        let mark = self.rules.hash_mark();
        let host = format!("{}{mark}{hash}", self.rules.escape(&host));
        let path = self.rules.escape(&path);
        let left = room
            .checked_sub(host.len() + 1)
            .ok_or(Unsupported::TooLong)?;
        let cut: String = path.chars().take(left).collect();
        // A name must not end with a separator.
        let cut = cut.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        if cut.is_empty() {
            return Ok(host);
        }
        Ok(format!("{host}{separator}{cut}"))
    }
}

impl Naming {
    /// Returns the default naming for a registry, `host[:port]`: [`Naming::Nested`] if it does not allow two separators in a row,
    /// otherwise [`Naming::Flat`].
    #[must_use]
    pub fn auto(registry: &str) -> Self {
        RegistryRules::of(&registry.to_ascii_lowercase()).naming()
    }

    fn join(self, host: &str, path: &str) -> String {
        match self {
            Self::Flat => format!("{}-{}", double_hyphens(host), mangle(path)),
            Self::Nested => format!("{host}/{path}"),
        }
    }

    /// The reverse of [`Self::join`]: encoded host and path.
    fn split(self, name: &str) -> Option<(String, String)> {
        let name = match self {
            Self::Flat if name.contains('/') => return None,
            Self::Flat => unmangle(name)?,
            Self::Nested => name.to_owned(),
        };
        let (host, path) = name.split_once('/')?;
        Some((host.to_owned(), path.to_owned()))
    }
}

fn double_hyphens(text: &str) -> String {
    text.replace('-', "--")
}

/// `/` becomes `-`, and `-` becomes `--`. No component starts or ends with a hyphen, so the two never touch.
fn mangle(path: &str) -> String {
    double_hyphens(path).replace('/', "-")
}

/// The reverse of [`mangle`]; `None` for an odd run of three or more hyphens, which it never makes.
fn unmangle(name: &str) -> Option<String> {
    let mut path = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(start) = rest.find('-') {
        let (before, tail) = rest.split_at(start);
        let after = tail.trim_start_matches('-');
        path.push_str(before);
        match tail.len() - after.len() {
            1 => path.push('/'),
            run if run % 2 == 0 => path.extend(core::iter::repeat_n('-', run / 2)),
            _ => return None,
        }
        rest = after;
    }
    path.push_str(rest);
    Some(path)
}

impl fmt::Display for BackupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Registry => "the backup registry must be host[:port], for example ghcr.io or registry.example.com:5000",
            Self::Repository => "the repository must be lower-case path components such as acme/mirror, \
                at most 127 characters together with the registry; on docker.io it cannot be empty",
        })
    }
}

impl core::error::Error for BackupError {}
