//! Flags of `plan`.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::values::bytes;
use super::{BackupArgs, ConfigArgs, OriginalsArgs, SourceArgs, WorkloadSelectionArgs};

const EXAMPLES: &str = "\
Examples:
  mirror-sidecar plan                                       the images in use of the cluster of KUBECONFIG
  helm template my-release my-chart | mirror-sidecar plan -f - --policy-settings settings.yaml
  mirror-sidecar plan -f manifests/ --output markdown       all .yaml, .yml and .json files in a folder
  mirror-sidecar plan nginx:1.27 quay.io/team/app:v1 --namespace shop

Exit codes of this command:
  0  all images are protected, or would be
  1  the plan was not possible, or not for everything
  2  some image would not be protected";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PlanArgs {
    /// Images to plan for, instead of those of a cluster; - reads a list from standard input: one per line, # starts a comment
    #[arg(value_name = "IMAGE", conflicts_with = "files")]
    pub images: Vec<String>,
    /// File with manifests in YAML or JSON, or a folder with such files; - reads standard input (repeatable). With --policy or
    /// --facade-address, the rules are those of the cluster, otherwise those of --policy-settings or of flags
    #[arg(short = 'f', long = "file", value_name = "FILE|FOLDER")]
    pub files: Vec<PathBuf>,
    /// Namespace of images, and of manifests without one
    #[arg(short = 'n', long, value_name = "NAME", default_value = "default")]
    pub namespace: String,
    /// Send no requests to registries: presence, platforms and sizes stay unknown
    #[arg(long)]
    pub offline: bool,
    /// Exit with 0 although rules, selectors or the workloads themselves exclude images
    #[arg(long)]
    pub allow_excluded: bool,
    /// Bytes per second for the estimate of the time: a number, with K, M, G or T as in --max-image-size
    #[arg(long, value_name = "BYTES", default_value = "10M", value_parser = bandwidth)]
    pub bandwidth: NonZeroU64,
    /// Format of the plan on standard output
    #[arg(long, value_enum, default_value = "table")]
    pub output: PlanFormat,
    // The groups come last: a heading applies to all flags that follow it.
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub backup: BackupArgs,
    #[command(flatten)]
    pub sources: SourceArgs,
    #[command(flatten)]
    pub originals: OriginalsArgs,
    #[command(flatten)]
    pub selection: WorkloadSelectionArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlanFormat {
    /// A table, with colours on a terminal
    Table,
    /// One JSON object
    Json,
    /// The same object in YAML
    Yaml,
    /// Tables for a pull request or a wiki
    Markdown,
}

fn bandwidth(text: &str) -> Result<NonZeroU64, &'static str> {
    bytes(text)
        .and_then(NonZeroU64::new)
        .ok_or("must be a number of bytes for each second, such as 10M")
}
