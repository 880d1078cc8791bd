//! Flags and environment variables.
//!
//! Each group belongs to one concern and is shared by the commands that need it. What a flag means is parsed here;
//! no other module reads the environment.

mod backup;
mod cluster;
mod copy;
mod facade;
mod login;
mod pull;
mod sources;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use k8s_openapi::jiff::SignedDuration;
use mirror_contract::{NamespacePattern, Sidecar};

pub use backup::BackupArgs;
pub use cluster::{ClusterArgs, Kubernetes, OnMovedTag};
pub use copy::{CopyArgs, ProgressArg};
pub use facade::{FacadeArgs, FacadeLogin, Transport};
pub use pull::PullPlan;
pub use sources::{OriginalsArgs, SourceArgs};

use crate::logging::{self, LogFormat};
use crate::output::OutputFormat;

const EXIT_CODES: &str = "\
Exit codes:
  0  everything was done
  1  something could not be done: a copy failed, a port is taken, the registry does not answer
  2  a flag, an environment variable, a file named by one, or an image reference is wrong";

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

/// Parses the command line and the environment; ends the process with a sentence when something is wrong.
///
/// A variable that is empty counts as not set, as charts and shell scripts expect.
#[must_use]
pub fn parse() -> Cli {
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
    let matches = forget_empty(Cli::command()).get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer the policy and copy the images that it asks for, until stopped
    Serve(Box<ServeArgs>),
    /// Copy images now, with all their platforms and signatures, byte for byte
    Copy(CopyArgs),
    /// Show what images are called: canonical reference, copy, and the policy's query
    Name(NameArgs),
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
        value_name = "ADDRESS:PORT"
    )]
    pub admin_listen: SocketAddr,
    /// How long to go on answering after SIGTERM, with /readyz saying no, until nobody sends questions here any more
    #[arg(
        long,
        env = "SHUTDOWN_DELAY",
        default_value = "0s",
        value_name = "TIME",
        value_parser = shutdown_delay
    )]
    pub shutdown_delay: Duration,
    /// How many images are copied at the same time, half of them at most from one source
    #[arg(
        long,
        env = "PARALLEL_COPIES",
        default_value = "4",
        value_name = "NUMBER"
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

/// Flags of `name`.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// The image references to show
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
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

/// The user can mend this: a flag, a variable or a file that one of them names is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// A number with a unit, such as 30m, 1h or 1h30m.
fn duration(text: &str) -> Result<Duration, &'static str> {
    let duration: SignedDuration = text
        .parse()
        .map_err(|_| "must be a time with its unit, such as 5s, 30m or 1h30m")?;
    Duration::try_from(duration).map_err(|_| "must not be negative")
}

/// Kubernetes kills after 30 seconds by default, and stopping takes some of them.
fn shutdown_delay(text: &str) -> Result<Duration, &'static str> {
    let delay = duration(text)?;
    if delay > Duration::from_mins(10) {
        return Err("must be at most 10m");
    }
    Ok(delay)
}

fn sidecar(text: &str) -> Result<String, &'static str> {
    Sidecar::parse(text)
        .map(|sidecar| sidecar.as_str().to_owned())
        .ok_or("must be a lower-case host name with a port, such as mirror-sidecar.kubewarden.svc:5000")
}

/// Spaces around a comma are forgiven.
fn namespace_pattern(text: &str) -> Result<NamespacePattern<'static>, &'static str> {
    NamespacePattern::parse(text.trim())
        .map(NamespacePattern::into_owned)
        .ok_or("must be the name of a namespace; a * at its end stands for any ending")
}

/// The rule for names of Secrets (RFC 1123 subdomain).
fn secret_name(text: &str) -> Result<String, &'static str> {
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        let alnum = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        bytes.first().is_some_and(alnum)
            && bytes.last().is_some_and(alnum)
            && bytes.iter().all(|byte| alnum(byte) || *byte == b'-')
    };
    (text.len() <= 253 && text.split('.').all(is_label))
        .then(|| text.to_owned())
        .ok_or("must be lower-case letters, digits, hyphens and dots, as names of Secrets are")
}
