//! Flags of `status`.

use clap::{Args, ValueEnum};

use super::values::http_url;
use crate::status::model::State;

const EXAMPLES: &str = "\
Examples:
  mirror-sidecar status                                  what is not protected, and why
  mirror-sidecar status nginx:1.27                       everything about one image
  mirror-sidecar status -n shop --output wide            all images that the namespace shop uses
  mirror-sidecar status --state missing,failed --output json
  mirror-sidecar status --watch

Exit codes of this command:
  0  everything in use is protected: mirrored, rewritten, or excluded by a rule
  1  the status cannot be read
  2  some image is not protected, or not everything is known yet; also for invalid flags";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct StatusArgs {
    /// Image to report everything about: the original, or the name of its copy
    #[arg(value_name = "IMAGE", conflicts_with_all = ["state", "for_namespace", "matching"])]
    pub image: Option<String>,
    /// Namespace of the Service of mirror-sidecar
    #[arg(long, value_name = "NAME", default_value = "image-mirror")]
    pub namespace: String,
    /// Name of the Service, if there are several; without it, it is found by its labels
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Context of the kubeconfig, instead of the current one
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// URL of the admin port, instead of the Service, such as `http://localhost:8080`
    #[arg(long, value_name = "HTTP-URL", value_parser = http_url, conflicts_with_all = ["service", "context"])]
    pub url: Option<hyper::Uri>,
    /// Show only images in these states: missing, copying, mirrored, failed, excluded, rewritten
    #[arg(long, value_name = "STATE,…", value_delimiter = ',', value_parser = state)]
    pub state: Vec<State>,
    /// Show only images that this namespace uses
    #[arg(short = 'n', long, value_name = "NAME")]
    pub for_namespace: Option<String>,
    /// Show only images whose reference contains this text
    #[arg(long, value_name = "TEXT")]
    pub matching: Option<String>,
    /// Repeat until Ctrl-C: redraw on a terminal, and otherwise print a line for each change
    #[arg(long)]
    pub watch: bool,
    /// Format of the result on standard output
    #[arg(long, value_enum, default_value = "table")]
    pub output: StatusFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatusFormat {
    /// A summary, images that need attention, and running copies
    Table,
    /// A summary, and all images with all columns
    Wide,
    /// One JSON document with all images
    Json,
    /// The same in YAML
    Yaml,
}

fn state(text: &str) -> Result<State, String> {
    let known = State::ALL.map(State::as_str).join(", ");
    State::named(text).ok_or(format!("must be one of {known}"))
}
