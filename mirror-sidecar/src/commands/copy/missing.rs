//! The reason why a source has no image: the repository, the tag, or a login is missing.

use std::fmt;
use std::time::Duration;

use mirror_copy::{CopyError, RegistryError, Source, TagOrDigest};

const TAGS_TIMEOUT: Duration = Duration::from_secs(10);

/// A failed copy, with a hint on the reason.
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

/// Adds a hint to the error. Registries respond with 404 for a missing repository and a missing tag, so the tags are listed.
pub(in crate::commands) async fn explain(error: CopyError, source: &Source) -> Failure {
    let hint = match &error {
        CopyError::SourceMissing { .. } => of_manifest(source).await,
        CopyError::Source(error) => hidden(error).map(str::to_owned),
        _ => None,
    };
    Failure { error, hint }
}

pub(super) async fn of_manifest(source: &Source) -> Option<String> {
    let tags = source.registry.tags(&source.repository);
    let tags = tokio::time::timeout(TAGS_TIMEOUT, tags).await.ok()?;
    match (tags, &source.reference) {
        (Err(error), _) if error.status() == Some(404) => Some(no_repository(source)),
        (Err(error), _) => hidden(&error).map(str::to_owned),
        (Ok(_), TagOrDigest::Tag(_)) => Some("the repository exists, but has no such tag".into()),
        (Ok(_), TagOrDigest::Digest(_)) => {
            Some("the repository exists, but has no such digest".into())
        }
    }
}

/// Describes why the tags of a repository cannot be listed.
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

/// Many registries, such as Docker Hub, require a login for missing repositories.
fn hidden(error: &RegistryError) -> Option<&'static str> {
    matches!(error, RegistryError::LoginNeeded { .. })
        .then_some("the repository is private, or does not exist")
}
