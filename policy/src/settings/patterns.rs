//! What a setting can pick out: images and labels. No regular expressions; compiling one costs more than the rest of
//! an evaluation.

use mirror_contract::ImageRef;

/// A pattern for images, in which `*` stands for any characters, `/` included. It describes the whole of a canonical
/// reference such as `docker.io/library/nginx:1.27@sha256:…`, or that without the digest, or without tag and digest.
#[derive(Debug, PartialEq, Eq)]
pub struct ImagePattern<'a>(&'a str);

/// A label: `<key>=<value>`.
#[derive(Debug, PartialEq, Eq)]
pub struct LabelPattern<'a> {
    /// The key, which may have a prefix.
    pub key: &'a str,
    /// The value, which may be empty.
    pub value: &'a str,
}

impl<'a> ImagePattern<'a> {
    /// Reads a pattern; `None` if it could never fit: without a `*` it must be written like a canonical reference
    /// (`docker.io/library/nginx`, not `nginx`), and no reference has other characters.
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

    pub(super) fn fits(&self, text: &str) -> bool {
        let Some((start, rest)) = self.0.split_once('*') else {
            return self.0 == text;
        };
        let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
        let inner = text
            .strip_prefix(start)
            .and_then(|text| text.strip_suffix(end));
        let Some(mut inner) = inner else { return false };
        // The first place that fits leaves the most for the parts that follow.
        middle.split('*').all(|part| {
            let found = inner.split_once(part).map(|(_, rest)| rest);
            inner = found.unwrap_or_default();
            found.is_some()
        })
    }
}

impl<'a> LabelPattern<'a> {
    /// Reads a pattern; `None` if there can be no such label.
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

/// The registry and repository at the beginning of a canonical reference.
pub(super) fn name<'a>(image: &ImageRef<'_>, canonical: &'a str) -> &'a str {
    let length = image.host().len() + "/".len() + image.path().len();
    canonical.get(..length).unwrap_or(canonical)
}
