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
  mirror-sidecar copy - < images.txt                        a list of images, one a line
  mirror-sidecar copy --all-tags docker.io/library/nginx    all tags of a repository
  mirror-sidecar copy --all-tags nginx --tags 'semver:>=1.26' --tags newest:5
  mirror-sidecar copy nginx:1.27 --to quay.io/acme/nginx:1.27 --platform linux/amd64,linux/arm64";

/// Flags of `copy`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CopyArgs {
    /// The images to copy; - reads more of them from standard input, one a line, where # begins a comment
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Copy all tags of the repositories that are given instead of images
    #[arg(long)]
    pub all_tags: bool,
    /// Copy only these of all tags: a glob such as `1.27.*`, `regex:EXPRESSION`, `semver:RANGE` such as `semver:>=1.26 <2`;
    /// with `!` in front all others; `newest:NUMBER` the highest versions of what is left (repeatable)
    ///
    /// A tag is copied if it matches one of the filters, or there are only filters with `!`, and none of those with `!`. A
    /// regular expression matches anywhere in the tag, a glob the whole tag. For `semver:` and `newest:`, 1.27 counts as
    /// 1.27.0, a leading `v` and leading zeros (24.04) are ignored, and tags that are no versions are left out; a tag with a
    /// suffix, such as 1.27.0-alpine, is a pre-release, which a range matches only if it names a pre-release of the same
    /// version. `semver:1.27` matches 1.27.x only. `newest:` leaves out dates and build numbers if there are versions. A
    /// repository without a matching tag is an error.
    #[arg(long, value_name = "FILTER", requires = "all_tags")]
    pub tags: Vec<TagFilter>,
    /// Show what would be copied, and write nothing: reads the original and the copy of each image, but no layers
    #[arg(long)]
    pub dry_run: bool,
    /// Where to copy a single image to, instead of to its name in the backup; without a tag, the copy has the tag of the
    /// original; with --all-tags the repository for the tags
    #[arg(long, value_name = "REFERENCE")]
    pub to: Option<String>,
    /// How many images are copied at the same time
    #[arg(
        long,
        env = "PARALLEL_COPIES",
        default_value = "32",
        value_name = "NUMBER",
        value_parser = positive::<NonZeroUsize>
    )]
    pub parallel_copies: NonZeroUsize,
    /// How progress is shown on standard error
    #[arg(long, value_enum, default_value = "auto")]
    pub progress: ProgressArg,
    /// Form of the results on standard output, in the order in which the copies end
    #[arg(long, value_enum, default_value = "text")]
    pub output: OutputFormat,
    // The groups come last: a heading holds for all flags that follow it.
    /// What is copied, and what is left behind.
    #[command(flatten)]
    pub extent: ExtentArgs,
    /// Where copies go.
    #[command(flatten)]
    pub backup: BackupArgs,
    /// Where originals come from.
    #[command(flatten)]
    pub sources: SourceArgs,
}

/// What is copied, and what is left behind.
#[derive(Debug, Args)]
#[command(next_help_heading = "What is copied")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct ExtentArgs {
    /// Copy this platform only (repeatable); the copy of an image with several platforms then has another digest than the
    /// original and does not stand for it, so this needs --to
    #[arg(long, value_delimiter = ',', value_name = "OS/ARCH[/VARIANT]")]
    platform: Vec<Platform>,
    /// Leave behind what refers to the image: signatures, SBOMs, attestations
    #[arg(long)]
    no_referrers: bool,
    /// Fetch foreign layers from the addresses in their manifest, and copy them as well
    #[arg(long)]
    foreign_layers: bool,
    /// Copy an index although the source misses some of the images that it names
    #[arg(long)]
    allow_sparse: bool,
    /// Look again at everything that the target already has, and repair what is missing there
    #[arg(long)]
    refresh: bool,
}

impl ExtentArgs {
    /// Copies have the digests of their originals.
    #[must_use]
    pub fn has_all_platforms(&self) -> bool {
        self.platform.is_empty()
    }
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgressArg {
    /// Bars on a terminal, unless debug messages are logged; lines otherwise
    Auto,
    /// A bar for each large layer in flight, for people who watch
    Bars,
    /// A line for each step, for logs; with many images a line every few seconds
    Lines,
    /// One JSON object for each event, for programs
    Json,
    /// Nothing
    None,
}

impl CopyArgs {
    /// How each image is copied.
    ///
    /// # Errors
    /// [`UsageError`] when the copies could not stand for their originals.
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
                "--platform needs --to: a copy without all platforms has another digest than its original, and in the \
                 backup the policy would take it for the whole image. Give it a name of its own"
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
            // Who names the images answers for their size.
            max_bytes: None,
        })
    }
}
