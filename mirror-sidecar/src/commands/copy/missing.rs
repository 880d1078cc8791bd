//! Why an image is not at its source: the repository or only the tag is missing, or a login is.

use std::fmt;
use std::time::Duration;

use mirror_copy::{CopyError, RegistryError, Source, TagOrDigest};

/// How long the registry may take to say whether it has the repository.
const PATIENCE: Duration = Duration::from_secs(10);

/// A failed copy, and what more is known of the reason.
#[derive(Debug)]
pub(in crate::commands) struct Failure {
    error: CopyError,
    hint: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hint {
            Some(hint) => write!(f, "{}: {hint}", self.error),
            None => self.error.fmt(f),
        }
    }
}

/// Adds what is missing to the error: registries answer 404 for a repository and for a tag alike, so the list of tags
/// decides.
pub(in crate::commands) async fn explain(error: CopyError, source: &Source) -> Failure {
    let hint = match &error {
        CopyError::SourceMissing { .. } => of_manifest(source).await,
        CopyError::Source(error) => hidden(error).map(str::to_owned),
        _ => None,
    };
    Failure { error, hint }
}

/// What the registry misses, if it can be told.
pub(super) async fn of_manifest(source: &Source) -> Option<String> {
    let tags = source.registry.tags(&source.repository);
    let tags = tokio::time::timeout(PATIENCE, tags).await.ok()?;
    match (tags, &source.reference) {
        (Err(error), _) if error.status() == Some(404) => Some(no_repository(source)),
        (Err(error), _) => hidden(&error).map(str::to_owned),
        (Ok(_), TagOrDigest::Tag(_)) => Some("the repository is there, but has no such tag".into()),
        (Ok(_), TagOrDigest::Digest(_)) => {
            Some("the repository is there, but has no such digest".into())
        }
    }
}

/// Why the tags of a repository cannot be listed.
pub(super) fn of_list(error: &RegistryError, source: &Source) -> String {
    match hidden(error) {
        _ if error.status() == Some(404) => no_repository(source),
        Some(hint) => format!("{error}: {hint}"),
        None => error.to_string(),
    }
}

fn no_repository(source: &Source) -> String {
    format!(
        "registry {} has no repository {}",
        source.registry.host(),
        source.repository
    )
}

/// Many registries, Docker Hub among them, ask for a login rather than admit that there is no such repository.
fn hidden(error: &RegistryError) -> Option<&'static str> {
    matches!(error, RegistryError::LoginNeeded { .. })
        .then_some("the repository is private, or does not exist")
}
