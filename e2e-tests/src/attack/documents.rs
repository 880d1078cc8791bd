//! Manifests, lists and tokens of hostile shapes.

use axum::http::HeaderValue;
use axum::http::header::InvalidHeaderValue;
use bytes::Bytes;

use testkit::digest;
use testkit::scripted::{OCI_INDEX, OCI_MANIFEST};

/// The largest manifest that is read at all, in bytes.
pub const MANIFEST: usize = 8 << 20;
/// The largest page of referrers that is read at all, in bytes.
pub const PAGE: usize = 4 << 20;

/// A document with its media type.
#[derive(Clone, Debug)]
pub struct Document {
    /// What is hostile about it.
    pub name: &'static str,
    /// The media type that it is sent with.
    pub media_type: &'static str,
    /// The bytes.
    pub body: Bytes,
}

impl Document {
    /// The digest of the bytes.
    #[must_use]
    pub fn digest(&self) -> String {
        digest::of(&self.body)
    }

    /// The same as the value of a header.
    pub(super) fn digest_header(&self) -> Result<HeaderValue, InvalidHeaderValue> {
        self.digest().parse()
    }
}

/// Repeats `item`, separated by commas, between `head` and `tail`, up to `size` bytes.
#[must_use]
pub fn filled(head: &str, item: &str, tail: &str, size: usize) -> Bytes {
    let mut text = String::with_capacity(size);
    text.push_str(head);
    text.push_str(item);
    while text.len() + item.len() + tail.len() + 1 < size {
        text.push(',');
        text.push_str(item);
    }
    text.push_str(tail);
    text.into()
}

/// Manifests of `size` bytes that cost a parser which keeps what it reads many times their size.
#[must_use]
pub fn manifests(size: usize) -> Vec<Document> {
    let manifest = |name, body| Document {
        name,
        media_type: OCI_MANIFEST,
        body,
    };
    let digest = format!("sha256:{}", "a".repeat(64));
    let config = format!(
        r#""config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":2}}"#
    );
    let head = format!(r#"{{"schemaVersion":2,{config},"#);
    let descriptor = format!(r#"{{"mediaType":"x","digest":"{digest}","size":1}}"#);
    vec![
        manifest("schemaVersion as a list", filled(r#"{"schemaVersion":["#, r#"{"":0}"#, "]}", size)),
        manifest(
            "config.urls of empty objects",
            filled(
                &head.replace(r#""size":2}"#, r#""size":2,"urls":["#),
                r#"{"":0}"#,
                r#"]},"layers":[]}"#,
                size,
            ),
        ),
        manifest(
            "config.urls of empty texts",
            filled(
                &head.replace(r#""size":2}"#, r#""size":2,"urls":["#),
                r#""""#,
                r#"]},"layers":[]}"#,
                size,
            ),
        ),
        manifest("empty layers", filled(&format!(r#"{head}"layers":["#), "{}", "]}", size)),
        manifest("layers that are numbers", filled(&format!(r#"{head}"layers":["#), "0", "]}", size)),
        manifest("small layers", filled(&format!(r#"{head}"layers":["#), &descriptor, "]}", size)),
        manifest(
            "annotations",
            filled(&format!(r#"{head}"layers":[],"annotations":{{"#), r#""":"""#, "}}", size),
        ),
        manifest(
            "an unknown list",
            filled(&format!(r#"{head}"layers":[],"x":["#), r#"{"":0}"#, "]}", size),
        ),
        manifest(
            "the same key",
            filled(r#"{"schemaVersion":2,"#, r#""config":{"":0}"#, r#","layers":[]}"#, size),
        ),
        manifest(
            "a huge text",
            format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{digest}","size":2}},"layers":[]}}"#,
                "x".repeat(size.saturating_sub(300))
            )
            .into(),
        ),
        manifest(
            "a text of escapes",
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{}",{config},"layers":[]}}"#,
                r"\u0000".repeat(size.saturating_sub(400) / 6)
            )
            .into(),
        ),
        manifest(
            "deep lists",
            format!(r#"{{"schemaVersion":2,"x":{}{}}}"#, "[".repeat(size / 2), "]".repeat(size / 2 - 30)).into(),
        ),
        Document {
            name: "an index of empty manifests",
            media_type: OCI_INDEX,
            body: filled(r#"{"schemaVersion":2,"manifests":["#, "{}", "]}", size),
        },
        Document {
            name: "an index of small manifests",
            media_type: OCI_INDEX,
            body: filled(r#"{"schemaVersion":2,"manifests":["#, &descriptor, "]}", size),
        },
    ]
}

/// Lists of referrers that cost much memory, or many log lines.
#[must_use]
pub fn referrers(size: usize) -> Vec<Document> {
    let list = |name, item: &str| Document {
        name,
        media_type: OCI_INDEX,
        body: filled(r#"{"schemaVersion":2,"manifests":["#, item, "]}", size),
    };
    let nested = Document {
        name: "annotations of one referrer",
        media_type: OCI_INDEX,
        body: filled(
            r#"{"schemaVersion":2,"manifests":[{"annotations":["#,
            r#"{"":0}"#,
            "]}]}",
            size,
        ),
    };
    vec![
        nested,
        list("entries that are no descriptors", "{}"),
        list("entries that are numbers", "0"),
        list(
            "entries with a bad digest",
            r#"{"digest":"x\ny","size":1,"mediaType":"x"}"#,
        ),
    ]
}
