//! The tags of a repository.

use futures_util::{Stream, StreamExt as _};
use mirror_contract::Digest;
use mirror_contract::naming::anchored_digest;
use mirror_copy::{DigestTag, RegistryError};

use super::plan::{Plan, Repository};
use crate::args::TagFilters;
use crate::output::count;

/// The copies of the tags of one repository.
pub(super) struct Listed {
    pub(super) plans: Vec<Plan>,
    /// Tags that belong to another image.
    pub(super) left_out: usize,
    /// Tags that the filters do not select.
    pub(super) not_selected: usize,
}

/// Lists the tags of each repository, `limit` repositories at a time.
pub(super) fn list_all(
    repositories: Vec<Repository>,
    limit: usize,
) -> impl Stream<Item = (Repository, Result<Vec<String>, RegistryError>)> {
    let lists = repositories.into_iter().map(|repository| async move {
        let source = &repository.source;
        let tags = source.registry.tags(&source.repository).await;
        (repository, tags)
    });
    futures_util::stream::iter(lists).buffered(limit)
}

/// Plans a copy for each selected tag, except tags that are copied with their image, or are not valid in a reference.
pub(super) fn plans(
    repository: &Repository,
    mut tags: Vec<String>,
    filters: TagFilters<'_>,
) -> Result<Listed, String> {
    let all = tags.len();
    tags.retain(|tag| !belongs_to_an_image(tag));
    let own = tags.len();
    let selected = filters.select(tags);
    if selected.is_empty() && !filters.0.is_empty() {
        return Err(format!(
            "none of its {} is selected by --tags",
            count(own as u64, "tag")
        ));
    }
    let not_selected = own - selected.len();
    let plan = |tag: &String| {
        let image = repository.name.image(tag)?;
        repository.planner.plan(&image).ok()
    };
    let plans: Vec<Plan> = selected.iter().filter_map(plan).collect();
    Ok(Listed {
        left_out: all - not_selected - plans.len(),
        not_selected,
        plans,
    })
}

/// Returns whether a tag is derived from a digest: the list of referrers where a registry has no API for them
/// (distribution-spec, "Referrers Tag Schema"), the tags of cosign, and the anchors of copies.
fn belongs_to_an_image(tag: &str) -> bool {
    Digest::parse_tag_form(DigestTag::strip_suffix(tag)).is_some() || anchored_digest(tag).is_some()
}

#[cfg(test)]
mod tests {
    use super::belongs_to_an_image;

    #[rstest::rstest]
    #[case("1.27", false)]
    #[case("sha256-abc", false)]
    #[case("sha256-abc.sig", false)]
    #[case("v1.sig", false)]
    #[case("{digest}", true)]
    #[case("{digest}.sig", true)]
    #[case("{digest}.att", true)]
    #[case("{digest}.sbom", true)]
    #[case("{digest}.mirror", true)]
    #[case("{digest}.zip", false)]
    #[case("x{digest}", false)]
    fn tags_that_come_along_with_an_image(#[case] tag: &str, #[case] belongs: bool) {
        let digest = format!("sha256-{}", "0a".repeat(32));
        assert_eq!(
            belongs_to_an_image(&tag.replace("{digest}", &digest)),
            belongs
        );
    }
}
