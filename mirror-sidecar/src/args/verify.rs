//! Flags of `verify`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mirror_contract::BackupName;

use super::workload_selection::WorkloadSelectionArgs;
use super::{BackupArgs, ConfigArgs, SourceArgs};

const EXAMPLES: &str = "\
Examples:
  mirror-sidecar verify nginx:1.27 ghcr.io/acme/app:v1      these images
  mirror-sidecar verify --file images.txt --deep            a list of images; read and hash every layer
  mirror-sidecar verify --policy image-mirror               what the cluster of KUBECONFIG uses
  mirror-sidecar verify --all --offline --output json       everything in the repository, without asking other registries
  mirror-sidecar verify --all --repair";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct VerifyArgs {
    /// Images to verify, by the name of the original or of the copy; - reads a list from standard input: one per line, #
    /// starts a comment. Without any, and without --file and --all, the images that a cluster uses
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
    /// File with a list of images, as for -
    #[arg(long, value_name = "LIST")]
    pub file: Option<PathBuf>,
    /// Verify everything in the repository of the backup; the registry must list its repositories (`/v2/_catalog`)
    #[arg(long, conflicts_with_all = ["images", "file"])]
    pub all: bool,
    /// Read every config and layer and verify its digest, instead of requesting its size
    #[arg(long)]
    pub deep: bool,
    /// Do not compare with the originals
    #[arg(long, conflicts_with = "repair")]
    pub offline: bool,
    /// Copy missing and wrong parts again, if the original still has exactly their digest, and write missing anchor tags
    #[arg(long)]
    pub repair: bool,
    /// Name of the backup in the configuration file to verify
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = backup_name)]
    pub backup_name: BackupName<'static>,
    /// Format of the results on standard output
    #[arg(long, value_enum, default_value = "table")]
    pub output: ReportFormat,
    // The groups come last: a heading applies to all flags that follow it.
    #[command(flatten)]
    pub cluster: VerifiedClusterArgs,
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub backup: BackupArgs,
    #[command(flatten)]
    pub sources: SourceArgs,
}

/// The cluster whose images are verified.
#[derive(Debug, Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct VerifiedClusterArgs {
    /// Kubeconfig of the cluster whose images are verified; by default that of KUBECONFIG, or the cluster that this Pod runs
    /// in
    #[arg(long, value_name = "FILE", conflicts_with_all = ["images", "file", "all"])]
    pub kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    pub selection: WorkloadSelectionArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// A line for each finding, and a summary
    Table,
    /// One JSON document with all images
    Json,
    /// The same document in YAML
    Yaml,
}

fn backup_name(text: &str) -> Result<BackupName<'static>, &'static str> {
    let name = BackupName::parse(text).map(BackupName::into_owned);
    name.ok_or("must be a name of a backup in the file of --config")
}
