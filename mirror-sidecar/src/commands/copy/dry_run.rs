//! `--dry-run`: shows what a run would do. Reads only manifests, and writes nothing.

use futures_util::StreamExt as _;
use mirror_copy::{CopyError, Digest, Source, TagOrDigest, Target};

use super::missing::{self, Failure};
use super::plan::Plan;
use super::result::{self, Preview};
use crate::args::CopyArgs;
use crate::output;

/// Prints the preview of each image. Returns whether one failed.
pub(super) async fn run(plans: Vec<Plan>, args: &CopyArgs) -> bool {
    let with_all_platforms = args.extent.has_all_platforms();
    let previews = plans.into_iter().map(|plan| async move {
        let preview = preview(&plan, with_all_platforms).await;
        (plan, preview)
    });
    let mut previews =
        std::pin::pin!(futures_util::stream::iter(previews).buffered(args.parallel_copies.get()));
    let mut failed = false;
    while let Some((plan, preview)) = previews.next().await {
        if let Err(error) = &preview {
            failed = true;
            output::error(&format!("{} cannot be copied: {error}", plan.image));
        }
        result::print_preview(&plan, preview.as_ref(), args.output);
    }
    failed
}

async fn preview(plan: &Plan, with_all_platforms: bool) -> Result<Preview, Failure> {
    let original = match original(&plan.source, &plan.image).await {
        Ok(original) => original,
        Err(error) => return Err(missing::explain(error, &plan.source).await),
    };
    // The digest of a copy with fewer platforms is unknown until it exists.
    if !with_all_platforms {
        return Ok(Preview::WouldCopy { digest: original });
    }
    match present(&plan.target, &original).await {
        Err(error) => Err(missing::explain(error, &plan.source).await),
        Ok(None) => Ok(Preview::WouldCopy { digest: original }),
        Ok(Some(digest)) if digest == original => Ok(Preview::Present { digest }),
        Ok(Some(replaces)) => Ok(Preview::WouldReplace {
            digest: original,
            replaces,
        }),
    }
}

/// Resolves `image` at its source.
pub(in crate::commands) async fn original(
    source: &Source,
    image: &str,
) -> Result<Digest, CopyError> {
    let resolved = source
        .registry
        .resolve(&source.repository, &source.reference)
        .await
        .map_err(CopyError::Source)?;
    let missing = || CopyError::SourceMissing {
        object: image.to_owned(),
    };
    resolved.map(|resolved| resolved.digest).ok_or_else(missing)
}

/// Resolves the name of the copy at the target.
pub(in crate::commands) async fn present(
    target: &Target,
    original: &Digest,
) -> Result<Option<Digest>, CopyError> {
    let reference = match &target.tag {
        Some(tag) => TagOrDigest::Tag(tag.clone()),
        None => TagOrDigest::Digest(original.clone()),
    };
    let registry = &target.registry;
    let resolved = registry.resolve_to_write(&target.repository, &reference);
    match resolved.await {
        Ok(resolved) => Ok(resolved.map(|resolved| resolved.digest)),
        // Some registries deny access to missing repositories. Only an invalid login is an error.
        Err(error) if error.is_denied() => {
            let accepted = registry.ping().await;
            accepted.map(|()| None).map_err(CopyError::Target)
        }
        Err(error) => Err(CopyError::Target(error)),
    }
}
