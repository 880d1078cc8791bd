//! The images or repositories of a command, from arguments and from a list on standard input or in a file.
//!
//! All invalid entries are reported together.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _, Read as _};
use std::path::Path;

use mirror_contract::ImageRef;

use crate::args::UsageError;
use crate::args::image::{check_transport, parse_image};
use crate::output;

/// The argument that stands for the list on standard input.
const STANDARD_INPUT: &str = "-";

/// File name extensions of lists.
const LIST_EXTENSIONS: [&str; 6] = ["csv", "json", "list", "txt", "yaml", "yml"];

/// Longest line of a list, in bytes. References have at most about 600.
const LONGEST_LINE: u64 = 4096;

/// Maximum number of entries, at some hundred bytes of memory each.
const MOST_ENTRIES: usize = 100_000;

/// Errors that are printed one by one, in case another kind of file is used as a list.
const MISTAKES_SHOWN: usize = 100;

/// The source of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::commands) enum Origin {
    Argument,
    /// A line of the list, from 1.
    Line(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commands) struct Entry<T> {
    pub(in crate::commands) origin: Origin,
    pub(in crate::commands) value: T,
}

/// The errors of arguments and of the list.
#[derive(Debug, Default)]
pub(in crate::commands) struct Mistakes(Vec<String>);

/// A repository without a tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::commands) struct RepositoryName(String);

/// The valid entries, and the errors of the others.
#[derive(Debug)]
pub(in crate::commands) struct List<T> {
    pub(in crate::commands) entries: Vec<Entry<T>>,
    pub(in crate::commands) mistakes: Mistakes,
}

/// Reads images, each once.
pub(in crate::commands) fn images(
    arguments: &[String],
) -> Result<List<ImageRef<'static>>, UsageError> {
    images_and_file(arguments, None)
}

/// Reads images, each once, also from a file with a list.
pub(in crate::commands) fn images_and_file(
    arguments: &[String],
    file: Option<&Path>,
) -> Result<List<ImageRef<'static>>, UsageError> {
    let parse =
        |text: &str| parse_image(text).map_err(|reason| format!("image {text:?}: {reason}"));
    let mut list = parsed_with_file(arguments, file, parse)?;
    let mut seen = HashSet::new();
    list.entries
        .retain(|entry| seen.insert(entry.value.clone().without_redundant_tag()));
    Ok(list)
}

/// Reads repositories, each once.
pub(in crate::commands) fn repositories(
    arguments: &[String],
) -> Result<List<RepositoryName>, UsageError> {
    let mut list = parsed(arguments, |text| {
        RepositoryName::parse(text).map_err(|reason| format!("repository {text:?}: {reason}"))
    })?;
    let mut seen = HashSet::new();
    list.entries
        .retain(|entry| seen.insert(entry.value.clone()));
    Ok(list)
}

impl RepositoryName {
    /// Parses `[host[:port]/]path` with the rules of image references. The error does not contain the text.
    pub(in crate::commands) fn parse(text: &str) -> Result<Self, String> {
        check_transport(text)?;
        // A colon after the last slash starts a tag, otherwise a port.
        let last = text.rsplit('/').next().unwrap_or(text);
        if text.contains('@') || last.contains(':') {
            return Err("all tags are copied, so it must have neither tag nor digest".into());
        }
        let image = ImageRef::parse(text).map_err(|error| error.to_string())?;
        Ok(Self(format!("{}/{}", image.host(), image.path())))
    }

    /// Returns the image with this tag; `None` if the tag is not valid in a reference.
    pub(in crate::commands) fn image(&self, tag: &str) -> Option<ImageRef<'static>> {
        format!("{}:{tag}", self.0).parse().ok()
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument => Ok(()),
            Self::Line(line) => write!(f, "line {line} of the list: "),
        }
    }
}

impl<T> List<T> {
    /// The number of entries, including invalid ones.
    pub(in crate::commands) fn len(&self) -> usize {
        self.entries.len() + self.mistakes.0.len()
    }
}

impl Mistakes {
    pub(in crate::commands) fn add(&mut self, origin: Origin, sentence: &str) {
        self.0.push(format!("{origin}{sentence}"));
    }

    /// Returns an error if there are any. Several are printed one by one, and the error has their number.
    pub(in crate::commands) fn check(mut self) -> Result<(), UsageError> {
        match self.0.len() {
            0 => Ok(()),
            1 => Err(UsageError(self.0.remove(0))),
            count => {
                let shown = self.0.iter().take(MISTAKES_SHOWN);
                shown.for_each(|sentence| output::error(sentence));
                let rest = match count.saturating_sub(MISTAKES_SHOWN) {
                    0 => String::new(),
                    rest => format!(", {rest} of them not shown"),
                };
                Err(UsageError(format!("{count} invalid entries{rest}")))
            }
        }
    }
}

/// Parses all entries.
pub(in crate::commands) fn parsed<T>(
    arguments: &[String],
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<List<T>, UsageError> {
    parsed_with_file(arguments, None, parse)
}

fn parsed_with_file<T>(
    arguments: &[String],
    file: Option<&Path>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<List<T>, UsageError> {
    let mut mistakes = Mistakes::default();
    let mut entries = Vec::new();
    let mut add = |origin, text: &str| match parse(text) {
        Ok(value) => entries.push(Entry { origin, value }),
        Err(sentence) => mistakes.add(origin, &sentence),
    };
    let mut input_is_read = false;
    for argument in arguments {
        if argument != STANDARD_INPUT {
            check_list(argument)?;
            add(Origin::Argument, argument);
        } else if !std::mem::replace(&mut input_is_read, true) {
            if io::stdin().is_terminal() {
                output::note("Enter one image per line; Ctrl-D ends the list.");
            }
            read_lines(io::stdin().lock(), &mut add)?;
        }
    }
    if let Some(path) = file {
        let wrong = |error| UsageError(format!("--file {}: {error}", path.display()));
        let list = File::open(path).map_err(wrong)?;
        read_lines(BufReader::new(list), &mut add)?;
    }
    if entries.is_empty() && mistakes.0.is_empty() {
        let list = file.map_or_else(
            || "on standard input".to_owned(),
            |path| path.display().to_string(),
        );
        return Err(UsageError(format!("the list {list} is empty")));
    }
    Ok(List { entries, mistakes })
}

/// Rejects the name of a file that looks like a list: as an image, it would be one of Docker Hub.
fn check_list(argument: &str) -> Result<(), UsageError> {
    let path = Path::new(argument);
    let extension = path.extension().and_then(|extension| extension.to_str());
    let is_list = extension.is_some_and(|extension| LIST_EXTENSIONS.contains(&extension));
    if is_list && path.is_file() {
        return Err(UsageError(format!(
            "{argument:?} is a file, not an image; to read a list of images, use - < {argument}"
        )));
    }
    Ok(())
}

/// Passes each line to `add` without comment and spaces, and skips empty lines.
fn read_lines(
    mut input: impl BufRead,
    add: &mut impl FnMut(Origin, &str),
) -> Result<(), UsageError> {
    let mut line = Vec::new();
    let mut entries = 0;
    for number in 1.. {
        line.clear();
        let wrong =
            |reason: &dyn fmt::Display| UsageError(format!("line {number} of the list: {reason}"));
        let length = input
            .by_ref()
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)
            .map_err(|error| wrong(&error))?;
        if length == 0 {
            break;
        }
        if length as u64 == LONGEST_LINE && !line.ends_with(b"\n") {
            return Err(wrong(&"it is too long for an image reference"));
        }
        let text = str::from_utf8(&line).map_err(|_| wrong(&"it is not UTF-8 text"))?;
        let text = if number == 1 {
            text.trim_start_matches('\u{feff}')
        } else {
            text
        };
        // References cannot contain #.
        let text = text.split('#').next().unwrap_or(text).trim();
        if text.is_empty() {
            continue;
        }
        entries += 1;
        if entries > MOST_ENTRIES {
            return Err(wrong(&"a list may have 100000 images; split it"));
        }
        add(Origin::Line(number), text);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
