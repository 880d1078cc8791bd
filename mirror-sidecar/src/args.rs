//! Flags and environment variables.
//!
//! Each group belongs to one concern and is shared by the commands that need it. What a flag means is parsed here;
//! no other module reads the environment.

mod backup;
mod cluster;
mod copy;
mod facade;
pub mod image;
mod login;
mod pull;
#[cfg(test)]
mod reference;
mod sources;
mod tag_filter;
mod values;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use mirror_contract::Sidecar;

pub use backup::BackupArgs;
pub use cluster::ClusterArgs;
pub use copy::{CopyArgs, ProgressArg};
pub use facade::{FacadeArgs, FacadeLogin, Transport};
pub use sources::{OriginalsArgs, SourceArgs};
pub use tag_filter::TagFilters;
use values::{duration, listen_address, positive};

use crate::exit::{FAILURE, USAGE};
use crate::logging::{self, LogFormat};
use crate::output::OutputFormat;

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
  mirror-sidecar name - --output json < images.txt                   a list of images, one a line
  mirror-sidecar name --reverse ghcr.io/acme/docker.io-library-nginx:1.27 --registry ghcr.io --repository acme";

pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  everything was done
  1  something could not be done: a copy failed, a port is taken, the registry does not answer, the results cannot be
     written
  2  a flag, an environment variable, a file named by one, or an image reference is wrong
  130, 143  `copy` was interrupted by Ctrl-C (SIGINT) or SIGTERM";

/// Keeps copies of container images in a backup registry and tells the image-mirror policy about them.
#[derive(Debug, Parser)]
#[command(name = "mirror-sidecar", version, about, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Parses the command line and the environment.
///
/// A variable that is empty counts as not set, as charts and shell scripts expect.
///
/// # Errors
/// The exit code, after `--help` or what is wrong was printed.
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
            (_, true) => ExitCode::from(USAGE),
            (Ok(()), false) => ExitCode::SUCCESS,
            (Err(problem), false) if problem.kind() == std::io::ErrorKind::BrokenPipe => {
                ExitCode::SUCCESS
            }
            (Err(_), false) => ExitCode::from(FAILURE),
        })
}

/// Names the variable that the value came from beside the flag that it is wrong for.
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

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer the policy and copy the images that it asks for, until stopped
    Serve(Box<ServeArgs>),
    /// Copy images now, with all their platforms and signatures, byte for byte
    Copy(CopyArgs),
    /// Show the names of images: canonical reference, copy, and the policy's query
    Name(NameArgs),
    /// Check an installation: the service, the login that pushes, and what a copy would read
    Check(CheckArgs),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
    /// Print the manual page, or write the pages of all commands to a folder
    Man(ManArgs),
}

/// How to log.
#[derive(Debug, Args)]
#[command(next_help_heading = "Log")]
pub struct LogArgs {
    /// Form of the log lines on standard error
    #[arg(
        long,
        env = "LOG_FORMAT",
        value_enum,
        default_value = "text",
        global = true
    )]
    pub log_format: LogFormat,
    /// Least severe level to log: off, error, warn, info, debug, trace; or a list of it and of MODULE=LEVEL
    #[arg(long, env = "LOG_LEVEL", default_value = "info", global = true, value_parser = logging::filter::check)]
    pub log_level: String,
}

/// Flags of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address of /healthz, /readyz and /metrics (plain HTTP; port 0 takes a free one and logs it)
    #[arg(
        long,
        env = "ADMIN_LISTEN",
        default_value = "0.0.0.0:8080",
        value_name = "[ADDRESS:]PORT",
        value_parser = listen_address
    )]
    pub admin_listen: SocketAddr,
    /// Keep serving this long after SIGTERM while /readyz fails, such as 30s or 1m30s; 5s in a cluster
    #[arg(
        long,
        env = "SHUTDOWN_DELAY",
        default_value = "0s",
        value_name = "TIME",
        value_parser = shutdown_delay
    )]
    pub shutdown_delay: Duration,
    /// How many images are copied at the same time, at most half of them from one source
    #[arg(
        long,
        env = "PARALLEL_COPIES",
        default_value = "4",
        value_name = "NUMBER",
        value_parser = positive::<NonZeroUsize>
    )]
    pub parallel_copies: NonZeroUsize,
    // The groups come last: a heading holds for all flags that follow it.
    /// Where copies go.
    #[command(flatten)]
    pub backup: BackupArgs,
    /// Where originals come from.
    #[command(flatten)]
    pub sources: SourceArgs,
    /// What is allowed of them.
    #[command(flatten)]
    pub originals: OriginalsArgs,
    /// How the policy reaches the sidecar.
    #[command(flatten)]
    pub facade: FacadeArgs,
    /// How it works with a Kubernetes cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Flags of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The image to plan a copy of; nothing is copied
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Address of the service's /readyz, which must respond with 200
    #[arg(long, value_name = "HTTP-URL", value_parser = http_url)]
    pub ready_url: Option<hyper::Uri>,
    /// Where copies go.
    #[command(flatten)]
    pub backup: BackupArgs,
    /// Where originals come from.
    #[command(flatten)]
    pub sources: SourceArgs,
}

/// Flags of `completion`.
#[derive(Debug, Args)]
#[command(after_help = COMPLETION_EXAMPLES)]
pub struct CompletionArgs {
    /// The shell to complete commands and flags in
    pub shell: clap_complete::Shell,
}

/// Flags of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Existing folder for mirror-sidecar.1, mirror-sidecar-copy.1 and the pages of the other commands
    #[arg(value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
}

/// Flags of `name`.
#[derive(Debug, Args)]
#[command(after_help = NAME_EXAMPLES)]
pub struct NameArgs {
    /// The image references to show; - reads more of them from standard input, one a line, where # begins a comment
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Show the originals of these copies instead
    #[arg(long)]
    pub reverse: bool,
    /// Where the policy reaches the sidecar: its `sidecar` setting
    #[arg(
        long,
        env = "SIDECAR",
        value_name = "HOST:PORT",
        default_value = "mirror-sidecar.image-mirror.svc:5000",
        value_parser = sidecar
    )]
    pub sidecar: String,
    /// Form of the results on standard output
    #[arg(long, value_enum, default_value = "text")]
    pub output: OutputFormat,
    /// Where copies go.
    #[command(flatten)]
    pub backup: BackupArgs,
}

/// Kubernetes kills after 30 seconds by default, and stopping takes some of them.
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

fn http_url(text: &str) -> Result<hyper::Uri, &'static str> {
    text.parse()
        .ok()
        .filter(|url: &hyper::Uri| url.scheme_str() == Some("http") && url.host().is_some())
        .ok_or("must be a URL such as http://mirror-sidecar.image-mirror.svc:8080/readyz")
}
