//! The filters and the pages of a request for images.

use mirror_contract::{BackupName, ImageRef};
use url::form_urlencoded;

use super::model::{State, Upstream};
use crate::cluster::index::Image;

/// Images on a page.
pub const DEFAULT_LIMIT: usize = 100;
pub const MAX_LIMIT: usize = 500;

/// Longest value of a parameter, in bytes: more than the longest image reference.
const MAX_VALUE: usize = 1024;

/// The parameters of a request for images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageQuery {
    /// Empty for all.
    pub states: Vec<State>,
    /// The original, when its registry was last checked.
    pub upstream: Option<Upstream>,
    /// A namespace that uses the image.
    pub namespace: Option<String>,
    /// A part of the canonical reference.
    pub text: Option<String>,
    pub backup: Option<BackupName<'static>>,
    /// Only images whose copies run now, in whatever replica.
    pub is_running: bool,
    pub limit: usize,
    /// The last row of the page before.
    pub after: Option<RowKey>,
    /// Only what this replica alone knows: the request is from another replica.
    pub is_local: bool,
}

/// The identity of a row, and its position: an image in one place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowKey {
    pub image: Image,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Backup(BackupName<'static>),
    Rewritten,
    Excluded,
}

impl Default for ImageQuery {
    fn default() -> Self {
        Self {
            states: Vec::new(),
            upstream: None,
            namespace: None,
            text: None,
            backup: None,
            is_running: false,
            limit: DEFAULT_LIMIT,
            after: None,
            is_local: false,
        }
    }
}

impl ImageQuery {
    /// Parses the query string of a request.
    ///
    /// # Errors
    /// One sentence about the first parameter that is not valid.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut parsed = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if value.len() > MAX_VALUE {
                return Err(format!(
                    "parameter {name}: must be at most {MAX_VALUE} bytes"
                ));
            }
            // `?state=&q=` is what forms send.
            if value.is_empty() {
                continue;
            }
            let text = || Some(value.clone().into_owned());
            match &*name {
                "state" => parsed.states = states(&value)?,
                "upstream" => parsed.upstream = Some(upstream(&value)?),
                "namespace" => parsed.namespace = text(),
                "q" => parsed.text = text(),
                "backup" => {
                    let backup = BackupName::parse(&value)
                        .ok_or("parameter backup: must be the name of a backup")?;
                    parsed.backup = Some(backup.into_owned());
                }
                "running" => parsed.is_running = is_true(&name, &value)?,
                "limit" => {
                    let limit = value.parse().ok();
                    let limit = limit.filter(|limit| (1..=MAX_LIMIT).contains(limit));
                    parsed.limit = limit.ok_or_else(|| {
                        format!("parameter limit: must be a number from 1 to {MAX_LIMIT}")
                    })?;
                }
                "continue" => {
                    let key = RowKey::parse(&value);
                    parsed.after = Some(key.ok_or(
                        "parameter continue: must be the value of `continue` of the page before",
                    )?);
                }
                "local" => parsed.is_local = is_true(&name, &value)?,
                _ => {
                    return Err(format!(
                        "unknown parameter {name}; known parameters: state, upstream, namespace, q, backup, running, limit, continue, local"
                    ));
                }
            }
        }
        Ok(parsed)
    }

    /// Returns whether it filters by what only the owner of an image knows for certain.
    #[must_use]
    pub fn depends_on_owners(&self) -> bool {
        !self.states.is_empty() || self.upstream.is_some()
    }

    /// Returns the query string of this query for another replica.
    #[must_use]
    pub fn for_replica(&self) -> String {
        let local = Self {
            is_local: true,
            ..self.clone()
        };
        local.to_query_string()
    }

    /// Returns the query string that [`Self::parse`] parses.
    #[must_use]
    pub fn to_query_string(&self) -> String {
        let mut text = form_urlencoded::Serializer::new(String::new());
        if self.is_local {
            text.append_pair("local", "true");
        }
        text.append_pair("limit", &self.limit.to_string());
        if !self.states.is_empty() {
            let states: Vec<_> = self.states.iter().map(|state| state.as_str()).collect();
            text.append_pair("state", &states.join(","));
        }
        if let Some(upstream) = self.upstream {
            text.append_pair("upstream", upstream.as_str());
        }
        if let Some(namespace) = &self.namespace {
            text.append_pair("namespace", namespace);
        }
        if let Some(part) = &self.text {
            text.append_pair("q", part);
        }
        if let Some(backup) = &self.backup {
            text.append_pair("backup", backup.as_str());
        }
        if self.is_running {
            text.append_pair("running", "true");
        }
        if let Some(after) = &self.after {
            text.append_pair("continue", &after.to_string());
        }
        text.finish()
    }
}

/// Parses the parameters of a request for the overview; returns whether it is from another replica.
///
/// # Errors
/// One sentence.
pub fn parse_local(query: &str) -> Result<bool, String> {
    let mut is_local = false;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name != "local" {
            return Err(format!("unknown parameter {name}; known parameters: local"));
        }
        is_local = is_true(&name, &value)?;
    }
    Ok(is_local)
}

fn is_true(name: &str, value: &str) -> Result<bool, String> {
    value
        .parse()
        .map_err(|_| format!("parameter {name}: must be true or false"))
}

fn states(value: &str) -> Result<Vec<State>, String> {
    let named = |name| {
        State::named(name).ok_or_else(|| {
            let known = State::ALL.map(State::as_str).join(", ");
            format!("parameter state: must be one or several of {known}, separated by commas")
        })
    };
    value.split(',').map(named).collect()
}

fn upstream(value: &str) -> Result<Upstream, String> {
    let mut all = Upstream::ALL.into_iter();
    all.find(|upstream| upstream.as_str() == value)
        .ok_or_else(|| {
            let known = Upstream::ALL.map(Upstream::as_str).join(", ");
            format!("parameter upstream: must be one of {known}")
        })
}

impl RowKey {
    /// Parses what [`ToString`] returns.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (place, image) = text.split_once('/')?;
        let image = ImageRef::parse(image).ok()?;
        Some(Self {
            image: Image::new(image.into_owned()),
            place: Place::parse(place)?,
        })
    }
}

impl std::fmt::Display for RowKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.place, self.image)
    }
}

impl Place {
    fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None if text == "rewritten" => Some(Self::Rewritten),
            None if text == "excluded" => Some(Self::Excluded),
            Some(("backup", name)) => Some(Self::Backup(BackupName::parse(name)?.into_owned())),
            _ => None,
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Backup(name) => write!(f, "backup:{name}"),
            Self::Rewritten => f.write_str("rewritten"),
            Self::Excluded => f.write_str("excluded"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(
        "state=broken",
        "parameter state: must be one or several of missing, copying,"
    )]
    #[case(
        "upstream=away",
        "parameter upstream: must be one of current, moved, gone,"
    )]
    #[case("limit=0", "parameter limit: must be a number from 1 to 500")]
    #[case("limit=501", "parameter limit")]
    #[case("limit=many", "parameter limit")]
    #[case("continue=nginx", "parameter continue")]
    #[case("continue=backup:-/nginx", "parameter continue")]
    #[case("backup=a/b", "parameter backup")]
    #[case("local=1", "parameter local")]
    #[case("running=1", "parameter running")]
    #[case("sort=name", "unknown parameter sort; known parameters: state,")]
    fn errors_name_the_parameter(#[case] query: &str, #[case] expected: &str) {
        let error = ImageQuery::parse(query).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn another_replica_gets_the_same_query() {
        let query = "state=missing,failed&upstream=gone&namespace=shop&q=ng%26x&backup=team-a&running=true&limit=7\
             &continue=backup%3Ateam-a%2Fdocker.io%2Flibrary%2Fnginx%3A1";
        let parsed = ImageQuery::parse(query).unwrap();
        assert_eq!(parsed.text.as_deref(), Some("ng&x"));
        let of_other = ImageQuery::parse(&parsed.for_replica()).unwrap();
        let expected = ImageQuery {
            is_local: true,
            ..parsed
        };
        assert_eq!(of_other, expected);
        let nothing = ImageQuery::parse("state=&q=").unwrap();
        assert_eq!(nothing, ImageQuery::default());
    }
}
