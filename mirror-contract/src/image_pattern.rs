//! Patterns for images. No regular expressions: compiling one takes longer than the rest of an evaluation.

use alloc::borrow::Cow;
use alloc::string::ToString as _;

use crate::ImageRef;

/// A pattern for images with `*` as wildcard, which includes `/`. It matches a whole canonical reference such as
/// `docker.io/library/nginx:1.27@sha256:…`, also without its digest, or without tag and digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePattern<'a>(Cow<'a, str>);

impl<'a> ImagePattern<'a> {
    /// The pattern that matches all images.
    pub const ALL: Self = Self(Cow::Borrowed("*"));

    /// Parses a pattern; returns `None` for one that matches no reference: without `*` it must be in canonical form
    /// (`docker.io/library/nginx`, not `nginx`).
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let is_possible = if text.contains('*') {
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"*._-/:@[]".contains(&byte))
        } else {
            ImageRef::parse(text).is_ok_and(|image| {
                let canonical = image.to_string();
                canonical == text || name(&image, &canonical) == text
            })
        };
        is_possible.then_some(Self(Cow::Borrowed(text)))
    }

    /// Returns whether the pattern matches `image`, whose canonical form is `canonical`.
    #[must_use]
    pub fn matches(&self, image: &ImageRef<'_>, canonical: &str) -> bool {
        let (undigested, _) = canonical.split_once('@').unwrap_or((canonical, ""));
        let forms = [canonical, undigested, name(image, canonical)];
        forms.into_iter().any(|form| self.matches_text(form))
    }

    /// Returns whether this pattern is known to match every image that `other` matches.
    ///
    /// `true` is always right. `false` may be wrong where only the grammar of references rules out the difference: `*/*/*`
    /// matches all that `docker.io/*` does, since repositories on Docker Hub have two parts.
    #[must_use]
    pub fn covers(&self, other: &ImagePattern<'_>) -> bool {
        other.forms().any(|form| self.matches_text(form))
    }

    /// Returns the texts of which a pattern must match one to cover this pattern. A wildcard in them is a character that only a
    /// wildcard matches.
    pub(crate) fn forms(&self) -> impl Iterator<Item = &str> {
        let text = &*self.0;
        // The same references without their digest, or without tag and digest, are forms of the same images.
        let undigested = text.split_once('@').map(|(undigested, _)| undigested);
        let forms = [Some(text), undigested, whole_repository(text)];
        forms.into_iter().flatten()
    }

    /// Returns the text that it was parsed from.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the registry of all images that the pattern matches; `None` if there may be several.
    #[must_use]
    pub fn registry(&self) -> Option<&str> {
        let (host, _) = self.0.split_once('/')?;
        (!host.contains('*')).then_some(host)
    }

    /// Returns whether the pattern only matches images in `location`, `registry[/repository]`; `true` is always right.
    #[must_use]
    pub fn is_within(&self, location: &str) -> bool {
        let rest = self.start().strip_prefix(location);
        rest.is_some_and(|rest| rest.starts_with('/'))
    }

    /// Returns whether the pattern may match an image in `location`, `registry[/repository]`; `false` is always right.
    #[must_use]
    pub fn may_match_in(&self, location: &str) -> bool {
        let is_around = self.0.contains('*') && location.starts_with(self.start());
        is_around || self.is_within(location)
    }

    /// Returns the same pattern with owned text.
    #[must_use]
    pub fn into_owned(self) -> ImagePattern<'static> {
        ImagePattern(Cow::Owned(self.0.into_owned()))
    }

    /// The text before the first wildcard, with which every text that the pattern matches begins.
    pub(crate) fn start(&self) -> &str {
        self.0.split_once('*').map_or(&*self.0, |(start, _)| start)
    }

    pub(crate) fn matches_text(&self, text: &str) -> bool {
        let Some((start, rest)) = self.0.split_once('*') else {
            return self.0 == text;
        };
        let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
        let inner = text
            .strip_prefix(start)
            .and_then(|text| text.strip_suffix(end));
        let Some(mut inner) = inner else { return false };
        // The first match leaves the longest rest for the other parts.
        middle.split('*').all(|part| {
            let found = inner.split_once(part).map(|(_, rest)| rest);
            inner = found.unwrap_or_default();
            found.is_some()
        })
    }
}

/// The registry and repository of a canonical reference.
fn name<'a>(image: &ImageRef<'_>, canonical: &'a str) -> &'a str {
    let length = image.host().len() + "/".len() + image.path().len();
    canonical.get(..length).unwrap_or(canonical)
}

/// The registry and repository of a pattern for tags or digests; `None` if they have a wildcard.
fn whole_repository(pattern: &str) -> Option<&str> {
    let path = pattern.find('/')?;
    let end = path + pattern.get(path..)?.find([':', '@'])?;
    pattern.get(..end).filter(|name| !name.contains('*'))
}
