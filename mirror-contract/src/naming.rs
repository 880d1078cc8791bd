//! What a copy is called in the backup registry, and which image a copy was made of.
//!
//! Two images never get one name, whatever they are called, and every name that was not shortened can be read back.
//! A name that would be too long is cut, and a hash of the whole joins its host after `__`, which no host name and no
//! encoded port contains: so it can never be the name of another image. Where the registry allows less than the
//! distribution specification, names are escaped ([`RegistryRules`]).

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
use crate::{MAX_REPOSITORY, MAX_TAG, Unsupported, grammar};

const ANCHOR_SUFFIX: &str = ".mirror";
/// 128 bits: enough that nobody finds two names with the same hash, short enough to leave room for the name itself.
const HASH_BYTES: usize = 16;

/// The place where copies go: a registry, a repository prefix there, and how names are made below it.
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
    /// It is the reference that [`Backup::target`] returns.
    Exact,
    /// It has a digest as well, although the original is named by its tag alone. The digest can be that of any image that was
    /// ever copied from this repository.
    Pinned,
}

/// Why a backup cannot be at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupError {
    /// The registry is not `host[:port]`.
    Registry,
    /// The repository is not a path of lower-case components, or leaves no room for names.
    Repository,
}

/// The tag that keeps a manifest from a registry's garbage collection: `sha256-<hex>.mirror`.
///
/// A SHA-512 digest does not fit into a tag: its anchor is cut, and still names one digest only for all purposes.
#[must_use]
pub fn anchor_tag(digest: &Digest<'_>) -> String {
    let mut tag = digest.to_tag_form();
    tag.truncate(MAX_TAG - ANCHOR_SUFFIX.len());
    tag.push_str(ANCHOR_SUFFIX);
    tag
}

/// The digest that a tag anchors, if it is an anchor that was not cut.
#[must_use]
pub fn anchored_digest(tag: &str) -> Option<Digest<'_>> {
    Digest::parse_tag_form(tag.strip_suffix(ANCHOR_SUFFIX)?)
}

impl Backup {
    /// Checks the place. `repository` may be empty: then copies are directly below the registry.
    ///
    /// # Errors
    /// [`BackupError`] names the wrong part.
    pub fn new(registry: &str, repository: &str, naming: Naming) -> Result<Self, BackupError> {
        let registry = match registry.to_ascii_lowercase() {
            alias if is_docker_hub(&alias) => DOCKER_HUB.to_owned(),
            registry => registry,
        };
        let is_registry = registry.contains(['.', ':']) || registry == "localhost";
        if !is_registry || !grammar::is_host(&registry) {
            return Err(BackupError::Registry);
        }
        // Half of what a name may be long: a hash and a recognisable rest always fit into the other half.
        let fits = registry.len() + repository.len() <= MAX_REPOSITORY / 2;
        // Docker Hub has no repositories without an account before them.
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

    /// The backup at `place`, `registry[/repository]`, with each [`Naming`], since it may have been filled with either.
    /// Returns `None` if there can be no such backup.
    #[must_use]
    pub fn with_both_namings(place: &str) -> Option<[Self; 2]> {
        let (registry, repository) = place.split_once('/').unwrap_or((place, ""));
        if place.ends_with('/') || registry.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        let backup = |naming| Self::new(registry, repository, naming).ok();
        Some([backup(Naming::Flat)?, backup(Naming::Nested)?])
    }

    /// The same place with the other [`Naming`].
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

    /// Whether it is a part of its registry, and not all of it.
    #[must_use]
    pub fn has_repository(&self) -> bool {
        !self.repository.is_empty()
    }

    /// Checks whether the registry accepts the names of copies, as far as the name of its host tells.
    ///
    /// A place that copies were in before needs no such check: nothing is pushed there.
    ///
    /// # Errors
    /// [`NamingError`] says what the registry refuses.
    pub fn check_naming(&self) -> Result<(), NamingError> {
        self.rules.check(&self.repository, self.naming)
    }

    /// How copies are named.
    #[must_use]
    pub const fn naming(&self) -> Naming {
        self.naming
    }

    /// The registry, `host[:port]`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Whether an image already is in the backup's repository, and must therefore not be copied.
    #[must_use]
    pub fn contains(&self, image: &ImageRef<'_>) -> bool {
        self.is_at(image.host()) && self.below_prefix(image.path()).is_some()
    }

    /// The repository in the backup registry that holds the copies of `image`: `acme/docker.io-library-nginx`.
    ///
    /// # Errors
    /// [`Unsupported`] when no such name exists.
    pub fn repository_for(&self, image: &ImageRef<'_>) -> Result<String, Unsupported> {
        let host = encode_host(image.host())?;
        let prefix = match self.repository.as_str() {
            "" => String::new(),
            repository => format!("{repository}/"),
        };
        // Older container runtimes count the registry too when they check the limit.
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

    /// The reference of the copy: the tag and the digest of `image` in [`Self::repository_for`] it.
    ///
    /// # Errors
    /// [`Unsupported`] when no such reference exists.
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

    /// The image that `copy` was made of, if [`Self::target`] gives its copy this repository.
    ///
    /// Unlike [`Self::source`], it knows no original for the copy of a copy, nor for what only looks like a copy.
    #[must_use]
    pub fn original(&self, copy: &ImageRef<'_>) -> Option<ImageRef<'static>> {
        let original = self.source(copy)?;
        let is_copy = !self.contains(&original)
            && self
                .target(&original)
                .is_ok_and(|target| target.path() == copy.path());
        is_copy.then_some(original)
    }

    /// How `copy` relates to `original`: whether it is a reference that the copy of `original` has in this backup.
    ///
    /// Unlike [`Self::source`], it also recognises names that were shortened.
    #[must_use]
    pub fn relation(&self, copy: &ImageRef<'_>, original: &ImageRef<'_>) -> Option<Relation> {
        let target = self.target(original).ok()?;
        let is_there = copy.host() == target.host()
            && copy.path() == target.path()
            && copy.tag() == target.tag();
        match (copy.digest(), original.digest()) {
            _ if !is_there => None,
            (copy, original) if copy == original => Some(Relation::Exact),
            (Some(_), None) => Some(Relation::Pinned),
            _ => None,
        }
    }

    /// The relation of `copy` to `original`, if any backup at all could have a copy of this name: its host and the beginning
    /// of its path are taken for the backup's registry and repository.
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
        // Few prefixes are followed by the original's host, and only those are worth making the name.
        prefixes
            .flat_map(|(repository, name)| {
                let fits = |(_, host): &&(Naming, String)| name.starts_with(host.as_str());
                let namings = starts.iter().filter(fits);
                namings.map(move |(naming, _)| (repository, *naming))
            })
            .filter_map(|(repository, naming)| Self::new(copy.host(), repository, naming).ok())
            .find_map(|backup| backup.relation(copy, original))
    }

    /// The image that `copy` was made of; an anchor leads to the original by digest.
    ///
    /// `None` for what is no copy in this backup, and for names that were shortened.
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

    /// Whether this host is the backup registry, with or without the port of HTTPS.
    fn is_at(&self, host: &str) -> bool {
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
        // A name must not end in a separator.
        let cut = cut.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        if cut.is_empty() {
            return Ok(host);
        }
        Ok(format!("{host}{separator}{cut}"))
    }
}

impl Naming {
    /// The naming that fits a registry, `host[:port]`: one level, unless the registry allows no two separators in a row.
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

    /// The encoded host and the path of which [`Self::join`] made `name`.
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

/// The reverse of [`mangle`]; `None` for what it never gives: an odd run of three or more hyphens.
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
