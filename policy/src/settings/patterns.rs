//! Patterns for images and labels. No regular expressions: compiling one takes longer than the rest of an evaluation.

use mirror_contract::ImageRef;

/// A pattern for images with `*` as wildcard, which includes `/`. It matches a whole canonical reference such as
/// `docker.io/library/nginx:1.27@sha256:…`, also without its digest, or without tag and digest.
#[derive(Debug, PartialEq, Eq)]
pub struct ImagePattern<'a>(&'a str);

/// A label: `<key>=<value>`.
#[derive(Debug, PartialEq, Eq)]
pub struct LabelPattern<'a> {
    pub key: &'a str,
    pub value: &'a str,
}

impl<'a> ImagePattern<'a> {
    /// Returns `None` for a pattern that matches no reference: without `*` it must be in canonical form
    /// (`docker.io/library/nginx`, not `nginx`).
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
        is_possible.then_some(Self(text))
    }

    /// `canonical` is the canonical form of `image`.
    pub fn matches(&self, image: &ImageRef<'_>, canonical: &str) -> bool {
        let (undigested, _) = canonical.split_once('@').unwrap_or((canonical, ""));
        let forms = [canonical, undigested, name(image, canonical)];
        forms.into_iter().any(|form| self.matches_text(form))
    }

    fn matches_text(&self, text: &str) -> bool {
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

impl<'a> LabelPattern<'a> {
    /// Returns `None` if no object can have such a label.
    pub fn parse(text: &'a str) -> Option<Self> {
        let is_label = |part: &str, more: &[u8]| {
            part.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
        };
        let (key, value) = text.split_once('=')?;
        (!key.is_empty() && is_label(key, b"._-/") && is_label(value, b"._-"))
            .then_some(Self { key, value })
    }
}

/// The registry and repository of a canonical reference.
fn name<'a>(image: &ImageRef<'_>, canonical: &'a str) -> &'a str {
    let length = image.host().len() + "/".len() + image.path().len();
    canonical.get(..length).unwrap_or(canonical)
}
