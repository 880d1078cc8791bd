//! Flags of `copy`.

use std::num::NonZeroUsize;

use clap::{Args, ValueEnum};
use mirror_copy::{CopyOptions, Platform};

use super::tag_filter::TagFilter;
use super::values::positive;
use super::{BackupArgs, SourceArgs};
use crate::exit::UsageError;
use crate::locations::anchor;
use crate::output::OutputFormat;

const EXAMPLES: &str = "\
Examples:
  mirror-sidecar copy nginx:1.27 ghcr.io/acme/app:v1        to their names in the backup
  mirror-sidecar copy - < images.txt                        a list of images, one per line
  mirror-sidecar copy --all-tags docker.io/library/nginx    all tags of a repository
  mirror-sidecar copy --all-tags nginx --tags 'semver:>=1.26' --tags newest:5
  mirror-sidecar copy nginx:1.27 --to quay.io/acme/nginx:1.27 --platform linux/amd64,linux/arm64";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CopyArgs {
    /// Images to copy; - reads a list from standard input: one per line, # starts a comment
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Copy all tags of the given repositories
    #[arg(long)]
    pub all_tags: bool,
    /// Copy only matching tags: a glob such as `1.27.*`, `regex:EXPRESSION`, or `semver:RANGE` such as `semver:>=1.26 <2`;
    /// with a leading `!`, only tags that do not match; `newest:NUMBER`, the highest versions of these (repeatable)
    ///
    /// A tag is copied if it matches a filter without `!`, or there is none, and matches no filter with `!`. A glob matches
    /// the whole tag, a regular expression any part of it. For `semver:` and `newest:`, 1.27 counts as 1.27.0, a leading `v`
    /// and leading zeros (24.04) are ignored, and tags that are not versions do not match. A tag with a suffix, such as
    /// 1.27.0-alpine, is a pre-release, which a range matches only if it names a pre-release of the same version.
    /// `semver:1.27` matches 1.27.x only. `newest:` ignores dates and build numbers if there are versions. A repository
    /// without a matching tag is an error.
    #[arg(long, value_name = "FILTER", requires = "all_tags")]
    pub tags: Vec<TagFilter>,
    /// Show what would be copied, and write nothing: reads the manifests of originals and copies, but no layers
    #[arg(long)]
    pub dry_run: bool,
    /// Name of the copy of a single image, instead of its name in the backup; without a tag, the copy has the tag of the
    /// original. With --all-tags, the repository of the copies
    #[arg(long, value_name = "REFERENCE")]
    pub to: Option<String>,
    /// Maximum number of images copied at the same time
    #[arg(
        long,
        env = "PARALLEL_COPIES",
        default_value = "32",
        value_name = "NUMBER",
        value_parser = positive::<NonZeroUsize>
    )]
    pub parallel_copies: NonZeroUsize,
    /// Progress on standard error
    #[arg(long, value_enum, default_value = "auto")]
    pub progress: ProgressArg,
    /// Format of the results on standard output, which are in the order in which copies finish
    #[arg(long, value_enum, default_value = "text")]
    pub output: OutputFormat,
    // The groups come last: a heading applies to all flags that follow it.
    #[command(flatten)]
    pub extent: ExtentArgs,
    #[command(flatten)]
    pub backup: BackupArgs,
    #[command(flatten)]
    pub sources: SourceArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Copied content")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct ExtentArgs {
    /// Copy only this platform (repeatable). The copy of an image with several platforms then has another digest than the
    /// original and cannot replace it, so this needs --to
    #[arg(long, value_delimiter = ',', value_name = "OS/ARCH[/VARIANT]")]
    platform: Vec<Platform>,
    /// Do not copy referrers of the image: signatures, SBOMs, attestations
    #[arg(long)]
    no_referrers: bool,
    /// Fetch foreign layers from the URLs in their manifest, and copy them as well
    #[arg(long)]
    foreign_layers: bool,
    /// Copy an index although some of its images are missing at the source
    #[arg(long)]
    allow_sparse: bool,
    /// Verify everything that the target already has, and restore missing parts
    #[arg(long)]
    refresh: bool,
}

impl ExtentArgs {
    pub fn has_all_platforms(&self) -> bool {
        self.platform.is_empty()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgressArg {
    /// Bars on a terminal, unless debug messages are logged; otherwise lines
    Auto,
    /// A bar for each large layer in transit
    Bars,
    /// A line for each step; with many images, a line every few seconds
    Lines,
    /// One JSON object for each event
    Json,
    /// No progress
    None,
}

impl CopyArgs {
    pub fn options(&self) -> Result<CopyOptions, UsageError> {
        let ExtentArgs {
            platform,
            no_referrers,
            foreign_layers,
            allow_sparse,
            refresh,
        } = &self.extent;
        if !platform.is_empty() && self.to.is_none() {
            return Err(UsageError(
                "--platform needs --to: a copy without all platforms has another digest than its original, so it must \
                 not have its name in the backup"
                    .into(),
            ));
        }
        Ok(CopyOptions {
            trust_present: !refresh,
            referrers: !no_referrers,
            platforms: platform.clone(),
            foreign_layers: *foreign_layers,
            allow_sparse: *allow_sparse,
            ignored_digest_tag: Some(anchor),
            // The operator names the images here.
            max_bytes: None,
            resend: std::collections::HashSet::new(),
        })
    }
}
