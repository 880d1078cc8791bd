//! Flags and environment variables.
//!
//! Each group belongs to one concern and is shared by the commands that need it. Values are parsed into types here. No
//! other module reads the environment.

mod backup;
mod cluster;
mod config;
mod copy;
mod facade;
pub mod image;
mod login;
mod plan;
mod pull;
#[cfg(test)]
mod reference;
mod sources;
mod status;
mod tag_filter;
mod values;
mod verify;
mod workload_selection;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use mirror_contract::Sidecar;

pub use backup::{BackupArgs, naming_name};
pub use cluster::ClusterArgs;
pub use config::{BackupFlags, ConfigArgs, LoadedConfig};
pub use copy::{CopyArgs, ProgressArg};
pub use facade::{FacadeArgs, FacadeLogin, Transport};
pub use login::is_username;
pub use plan::{PlanArgs, PlanFormat};
pub use sources::{OriginalsArgs, SizeLimit, SourceArgs, check_docker_config, size_limit};
pub use status::{StatusArgs, StatusFormat};
pub use tag_filter::TagFilters;
use values::{duration, http_url, listen_address, positive};
pub use verify::{ReportFormat, VerifyArgs};

use crate::exit::{FAILURE, USAGE};
use crate::logging::{self, LogFormat};
use crate::output::OutputFormat;
use crate::status::endpoints::StatusEndpoints;

pub use workload_selection::WorkloadSelectionArgs;

pub use crate::exit::UsageError;

const COMPLETION_EXAMPLES: &str = "\
Examples:
  source <(mirror-sidecar completion bash)
  mirror-sidecar completion zsh > \"${fpath[1]}/_mirror-sidecar\"
  mirror-sidecar completion fish > ~/.config/fish/completions/mirror-sidecar.fish";

const NAME_EXAMPLES: &str = "\
Examples:
  mirror-sidecar name nginx                                          the canonical reference
  mirror-sidecar name nginx:1.27 --registry ghcr.io --repository acme
  mirror-sidecar name - --output json < images.txt                   a list of images, one per line
  mirror-sidecar name --reverse ghcr.io/acme/docker.io-library-nginx:1.27 --registry ghcr.io --repository acme";

pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  a copy failed, a port is in use, a registry does not respond, or the results cannot be written; `plan` was not possible,
     or not for everything
  2  a flag, an environment variable, a file that one of them names, or an image reference is invalid; for `plan` and
     `verify`: some image is not protected
  130, 143  `copy` was interrupted by SIGINT (Ctrl-C) or SIGTERM";

/// Copies container images to a backup registry, and reports their status to the image-mirror policy.
#[derive(Debug, Parser)]
#[command(name = "mirror-sidecar", version, about, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub log: LogArgs,
}

/// Parses the command line and the environment.
///
/// An empty variable counts as not set, as charts and shell scripts expect.
pub fn parse() -> Result<Cli, ExitCode> {
    fn forget_empty(command: clap::Command) -> clap::Command {
        let is_empty = |arg: &clap::Arg| {
            let value = arg.get_env().and_then(std::env::var_os);
            value.is_some_and(|value| value.is_empty())
        };
        command
            .mut_args(|arg| {
                if is_empty(&arg) {
                    arg.env(None::<&str>)
                } else {
                    arg
                }
            })
            .mut_subcommands(forget_empty)
    }
    let matches = forget_empty(Cli::command()).try_get_matches();
    matches
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map_err(with_variable)
        .map_err(|error| match (error.print(), error.use_stderr()) {
            (_, true) if is_plan() => ExitCode::from(FAILURE),
            (_, true) => ExitCode::from(USAGE),
            (Ok(()), false) => ExitCode::SUCCESS,
            (Err(problem), false) if problem.kind() == std::io::ErrorKind::BrokenPipe => {
                ExitCode::SUCCESS
            }
            (Err(_), false) => ExitCode::from(FAILURE),
        })
}

/// Returns whether the command is `plan`, whose exit code 2 is a result and no error.
fn is_plan() -> bool {
    let matches = Cli::command().ignore_errors(true).try_get_matches();
    matches.is_ok_and(|matches| matches.subcommand_name() == Some("plan"))
}

/// Adds the name of the variable to an error if the value came from there.
fn with_variable(mut error: clap::Error) -> clap::Error {
    let mut root = Cli::command();
    root.build();
    let name = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(name)) => name.clone(),
        _ => return error,
    };
    let commands = std::iter::once(&root).chain(root.get_subcommands());
    let arg = commands
        .flat_map(clap::Command::get_arguments)
        .find(|arg| arg.to_string() == name);
    let Some((flag, variable)) = arg.and_then(|arg| Some((arg.get_long()?, arg.get_env()?))) else {
        return error;
    };
    let is_flag = |text: &str| {
        let rest = text
            .strip_prefix("--")
            .and_then(|text| text.strip_prefix(flag));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    let is_given = std::env::args_os().any(|text| text.to_str().is_some_and(is_flag));
    if !is_given && std::env::var_os(variable).is_some() {
        let name = format!("{name}' from the variable '{}", variable.to_string_lossy());
        error.insert(ContextKind::InvalidArg, ContextValue::String(name));
    }
    error
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service: respond to the policy, and copy the images that it requests
    Serve(Box<ServeArgs>),
    /// Copy images with all platforms and signatures, byte for byte
    Copy(CopyArgs),
    /// Show the canonical reference of an image, the name of its copy, and the query of the policy
    Name(NameArgs),
    /// Check an installation: readiness of the service, push permission, and a dry run of one copy
    Check(CheckArgs),
    /// Show what would be copied for a cluster, for manifests or for images, and what would not be protected; change nothing
    Plan(Box<PlanArgs>),
    /// Show what is protected in a running installation, what is not and why, and what is being copied
    Status(Box<StatusArgs>),
    /// Verify that the backup has every image whole, and repair it on request
    Verify(Box<VerifyArgs>),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
    /// Print the manual page, or write one for each command to a folder
    Man(ManArgs),
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Log")]
pub struct LogArgs {
    /// Format of the log lines on standard error
    #[arg(
        long,
        env = "LOG_FORMAT",
        value_enum,
        default_value = "text",
        global = true
    )]
    pub log_format: LogFormat,
    /// Log level: off, error, warn, info, debug or trace; or a comma-separated list of a level and of MODULE=LEVEL
    #[arg(long, env = "LOG_LEVEL", default_value = "info", global = true, value_parser = logging::filter::check)]
    pub log_level: String,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address of /healthz, /readyz, /metrics and the status, without TLS (port 0: a free port, which is logged)
    #[arg(
        long,
        env = "ADMIN_LISTEN",
        default_value = "0.0.0.0:8080",
        value_name = "[ADDRESS:]PORT",
        value_parser = listen_address
    )]
    pub admin_listen: SocketAddr,
    /// What of the status is served on the port of --admin-listen, which has no authentication: the page / with the API
    /// /api/v1, the API alone, or nothing. Other replicas and `mirror-sidecar status` use the API
    #[arg(
        long,
        env = "STATUS_ENDPOINTS",
        value_enum,
        default_value = "all",
        value_name = "ENDPOINTS"
    )]
    pub status_endpoints: StatusEndpoints,
    /// Keep serving this long after SIGTERM while /readyz fails, such as 30s or 1m30s; use 5s in a cluster
    #[arg(
        long,
        env = "SHUTDOWN_DELAY",
        default_value = "0s",
        value_name = "TIME",
        value_parser = shutdown_delay
    )]
    pub shutdown_delay: Duration,
    /// Maximum number of images copied at the same time, at most half of them from one source
    #[arg(
        long,
        env = "PARALLEL_COPIES",
        default_value = "4",
        value_name = "NUMBER",
        value_parser = positive::<NonZeroUsize>
    )]
    pub parallel_copies: NonZeroUsize,
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
    pub facade: FacadeArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Image for the dry run; nothing is copied
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// URL of the service's /readyz, which must respond with 200
    #[arg(long, value_name = "HTTP-URL", value_parser = http_url)]
    pub ready_url: Option<hyper::Uri>,
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub backup: BackupArgs,
    #[command(flatten)]
    pub sources: SourceArgs,
}

#[derive(Debug, Args)]
#[command(after_help = COMPLETION_EXAMPLES)]
pub struct CompletionArgs {
    /// Shell to generate the script for
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Existing folder for mirror-sidecar.1, mirror-sidecar-copy.1 and the pages of the other commands
    #[arg(value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = NAME_EXAMPLES)]
pub struct NameArgs {
    /// Image references; - reads a list from standard input: one per line, # starts a comment
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Show the original of each copy instead
    #[arg(long)]
    pub reverse: bool,
    /// Address of the sidecar in the query: the `sidecar` setting of the policy
    #[arg(
        long,
        env = "SIDECAR",
        value_name = "HOST:PORT",
        default_value = "mirror-sidecar.image-mirror.svc:5000",
        value_parser = sidecar
    )]
    pub sidecar: String,
    /// Format of the results on standard output
    #[arg(long, value_enum, default_value = "text")]
    pub output: OutputFormat,
    #[command(flatten)]
    pub backup: BackupArgs,
}

/// At most 10 minutes. The default grace period of a Pod is 30 s, and stopping takes up to 10 s of it.
fn shutdown_delay(text: &str) -> Result<Duration, String> {
    let delay = duration(text)?;
    if delay > Duration::from_mins(10) {
        return Err("must be at most 10m".into());
    }
    Ok(delay)
}

fn sidecar(text: &str) -> Result<String, &'static str> {
    Sidecar::parse(text)
        .map(|sidecar| sidecar.as_str().to_owned())
        .ok_or("must be a lower-case host name with a port, such as mirror-sidecar.image-mirror.svc:5000")
}
