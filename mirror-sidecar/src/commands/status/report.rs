//! What the command shows, and the documents of `--output json` and `--output yaml`.

use std::fmt::Write as _;

use serde::Serialize;

use super::client::Client;
use crate::args::{StatusArgs, StatusFormat};
use crate::output;
use crate::output::escape::must_escape;
use crate::status::model::{ImageStatus, Overview, State, Upstream};
use crate::status::query::{ImageQuery, MAX_LIMIT};

/// Images that are read: more than the limits of a cluster allow.
const MAX_IMAGES: usize = 100_000;

/// What the command shows, and the document of `--output json`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    #[serde(flatten)]
    pub(super) overview: Overview,
    /// Those that pass the filters.
    pub(super) items: Vec<ImageStatus>,
    /// Images are filtered, and all of them that are not protected are in `items`.
    #[serde(skip)]
    pub(super) has_all_of_filter: bool,
}

impl Report {
    /// Reads the status with the images that the command shows.
    pub(super) async fn read(client: &Client, args: &StatusArgs) -> anyhow::Result<Self> {
        let overview = client.overview().await?;
        let shows_all = args.output != StatusFormat::Table || !args.state.is_empty();
        let query = ImageQuery {
            states: args.state.clone(),
            namespace: args.for_namespace.clone(),
            text: args.matching.clone(),
            limit: MAX_LIMIT,
            ..ImageQuery::default()
        };
        let mut items = Vec::new();
        if shows_all {
            items = client.images(query, MAX_IMAGES).await?;
        } else {
            let unprotected = ImageQuery {
                states: vec![State::Missing, State::Copying, State::Failed],
                ..query.clone()
            };
            items.extend(client.images(unprotected, MAX_IMAGES).await?);
            if overview.images.last_copies > 0 {
                let last_copies = ImageQuery {
                    states: vec![State::Mirrored],
                    upstream: Some(Upstream::Gone),
                    ..query
                };
                items.extend(client.images(last_copies, MAX_IMAGES).await?);
            }
        }
        let is_filtered = args.for_namespace.is_some() || args.matching.is_some();
        Ok(Self {
            overview,
            items,
            has_all_of_filter: is_filtered && args.state.is_empty(),
        })
    }

    /// Everything in use is known and protected or, with filters of images, all that pass these.
    pub(super) fn is_protected(&self) -> bool {
        self.overview.is_complete
            && (self.has_all_of_filter || self.overview.images.unprotected() == 0)
            && self.items.iter().all(|item| item.state.is_protected())
    }
}

/// Writes a document. Characters that control a terminal are escaped.
pub(super) fn document(value: &impl Serialize, format: StatusFormat) -> anyhow::Result<()> {
    let json = printable(&serde_json::to_string_pretty(value)?);
    if format == StatusFormat::Yaml {
        let value: serde_json::Value = serde_json::from_str(&json)?;
        output::raw(&serde_saphyr::to_string(&value)?);
    } else {
        output::line(&json);
    }
    Ok(())
}

/// Returns the same JSON with escape sequences for characters that are not printable.
fn printable(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if character != '\n' && must_escape(character) {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_cannot_control_a_terminal() {
        let hostile = "a\u{9b}31m\u{202e}b\u{e0001}";
        let json = serde_json::to_string_pretty(&[hostile]).unwrap();
        let printable = printable(&json);
        assert!(
            printable.chars().all(|c| c == '\n' || !must_escape(c)),
            "{printable}"
        );
        let parsed: Vec<String> = serde_json::from_str(&printable).unwrap();
        assert_eq!(parsed, [hostile]);
    }
}
