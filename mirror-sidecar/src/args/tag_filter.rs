//! Filters of `--tags`: which tags of a repository are copied.

use std::cmp::{Ordering, Reverse};
use std::str::FromStr;

use regex::bytes::{Regex, RegexBuilder};
use semver::{Version, VersionReq};

/// Memory of one compiled expression. Tags have at most 128 characters, so nothing useful is larger.
const MAX_COMPILED: usize = 1 << 20;

/// Digits of a number that is a version by itself, as in `16` and `v120`. Longer ones are dates and numbers of builds.
const LONGEST_MAJOR: usize = 4;

/// One `--tags`.
#[derive(Clone, Debug)]
pub enum TagFilter {
    /// Tags of this form.
    Matching(Pattern),
    /// No tags of this form.
    Excluding(Pattern),
    /// The highest versions of what the others select.
    Newest(usize),
}

/// The form of tags.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// A glob or a regular expression.
    Expression(Regex),
    /// A range of semantic versions.
    Versions(VersionReq),
}

/// All filters of a command line: a tag is selected if it has one of the forms, or there are none, and none of the
/// excluded forms.
#[derive(Clone, Copy, Debug)]
pub struct TagFilters<'a>(pub &'a [TagFilter]);

impl FromStr for TagFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(number) = text.strip_prefix("newest:") {
            let number = number.parse().ok().filter(|number| *number > 0);
            return number
                .map(Self::Newest)
                .ok_or_else(|| "newest: needs a number, such as newest:5".into());
        }
        match text.strip_prefix('!') {
            Some(pattern) if pattern.starts_with("newest:") => {
                Err("newest: cannot be negated".into())
            }
            Some(pattern) => pattern.parse().map(Self::Excluding),
            None => text.parse().map(Self::Matching),
        }
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("regex", expression)) => compile(expression).map(Self::Expression),
            Some(("semver", range)) => parse_range(range).map(Self::Versions),
            // No tag has a colon in it.
            Some((kind, _)) => Err(format!(
                "{kind}: is no kind of filter; use a glob such as 1.27.*, regex:EXPRESSION, semver:RANGE or newest:NUMBER"
            )),
            None if text.is_empty() => Err("must not be empty".into()),
            None => compile(&glob(text)?).map(Self::Expression),
        }
    }
}

impl Pattern {
    fn matches(&self, tag: &str) -> bool {
        match self {
            Self::Expression(expression) => expression.is_match(tag.as_bytes()),
            Self::Versions(range) => {
                TagVersion::of(tag).is_some_and(|tag| range.matches(&tag.version))
            }
        }
    }
}

impl TagFilters<'_> {
    /// The selected tags, in the order of `tags`.
    #[must_use]
    pub fn select(&self, mut tags: Vec<String>) -> Vec<String> {
        tags.retain(|tag| self.fits(tag));
        let newest = self.0.iter().filter_map(|filter| match filter {
            TagFilter::Newest(number) => Some(*number),
            _ => None,
        });
        if let Some(number) = newest.min() {
            keep_highest(&mut tags, number);
        }
        tags
    }

    fn fits(&self, tag: &str) -> bool {
        let mut has_forms = false;
        let mut has_form = false;
        for filter in self.0 {
            match filter {
                TagFilter::Excluding(pattern) if pattern.matches(tag) => return false,
                TagFilter::Matching(pattern) => {
                    has_forms = true;
                    has_form |= pattern.matches(tag);
                }
                TagFilter::Excluding(_) | TagFilter::Newest(_) => {}
            }
        }
        has_form || !has_forms
    }
}

/// Keeps the tags with the `number` highest versions. Registries do not say when a tag was pushed, so the version decides;
/// tags that are no version are dropped.
fn keep_highest(tags: &mut Vec<String>, number: usize) {
    let versions = tags.iter().enumerate();
    let mut ranked: Vec<_> = versions
        .filter_map(|(index, tag)| Some((TagVersion::of(tag)?, index)))
        .collect();
    // A date or the number of a build is higher than any version, and not newer.
    if ranked.iter().any(|(version, _)| !version.is_serial) {
        ranked.retain(|(version, _)| !version.is_serial);
    }
    ranked.sort_by(|(a, first), (b, second)| match a.precedence(b) {
        // Of 1.27 and 1.27.0 the one that names more comes first.
        Ordering::Equal => length(tags, *first).cmp(&length(tags, *second)),
        order => order.reverse(),
    });
    ranked.truncate(number);
    let mut kept: Vec<usize> = ranked.into_iter().map(|(_, index)| index).collect();
    kept.sort_unstable();
    let mut index = 0;
    tags.retain(|_| {
        let keep = kept.binary_search(&index).is_ok();
        index += 1;
        keep
    });
}

fn length(tags: &[String], index: usize) -> Reverse<usize> {
    Reverse(tags.get(index).map_or(0, String::len))
}

/// The version that a tag names.
struct TagVersion {
    version: Version,
    /// The fourth number, which semantic versions do not have: `8.0.1.2`.
    revision: u64,
    /// A single long number, or a date with hyphens: `20240101`, `2024-05-01`.
    is_serial: bool,
}

impl TagVersion {
    /// Reads `1.27.3` and `v1.27.3-rc.1`. `1.27` and `1.27-alpine` count as `1.27.0` and `1.27.0-alpine`; leading zeros as in
    /// `24.04` do not matter.
    fn of(tag: &str) -> Option<Self> {
        let text = tag.strip_prefix(['v', 'V']).unwrap_or(tag);
        let numbers_end = text.find(['-', '+', '_']).unwrap_or(text.len());
        let (numbers, rest) = text.split_at_checked(numbers_end)?;
        let parsed: Result<Vec<u64>, _> = numbers.split('.').map(str::parse).collect();
        let parsed = parsed.ok()?;
        let at = |index: usize| parsed.get(index).copied().unwrap_or_default();
        if parsed.len() > 4 || numbers.contains('+') {
            return None;
        }
        // `_` stands for `+`, which no tag may contain.
        let rest = rest.replace('_', "+");
        let version = format!("{}.{}.{}{rest}", at(0), at(1), at(2));
        let is_date = rest
            .strip_prefix('-')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        Some(Self {
            version: Version::parse(&version).ok()?,
            revision: at(3),
            is_serial: parsed.len() == 1 && (numbers.len() > LONGEST_MAJOR || is_date),
        })
    }

    fn precedence(&self, other: &Self) -> Ordering {
        let by_version = self.version.cmp_precedence(&other.version);
        by_version.then(self.revision.cmp(&other.revision))
    }
}

/// Both spaces and commas separate the conditions of a range. A version without an operator is that version, `1.27` any `1.27.x`.
fn parse_range(range: &str) -> Result<VersionReq, String> {
    let mut text = String::with_capacity(range.len());
    for word in range.split([' ', ',']).filter(|word| !word.is_empty()) {
        let is_after_operator = text.ends_with(['>', '<', '=', '^', '~']);
        if !text.is_empty() && !is_after_operator {
            text.push(',');
        }
        // `>=v1.2` is what people write after their tags.
        let operator = word.trim_start_matches(['>', '<', '=', '^', '~']);
        let number = operator.strip_prefix('v').unwrap_or(operator);
        let written = word.strip_suffix(operator).unwrap_or_default();
        if written.is_empty() && !is_after_operator {
            text.push('=');
        }
        text.push_str(written);
        text.push_str(&without_leading_zeros(number));
    }
    if text.is_empty() {
        return Err("semver: needs a range, such as semver:>=1.26 <2".into());
    }
    VersionReq::parse(&text).map_err(|error| {
        format!("semver:{range}: {error}; a range is such as >=1.26 <2, ^1.27 or ~1.27.3")
    })
}

/// `24.04` as `24.4`: semantic versions have no leading zeros, tags have.
fn without_leading_zeros(version: &str) -> String {
    let end = version.find(['-', '+']).unwrap_or(version.len());
    let (numbers, rest) = version.split_at_checked(end).unwrap_or((version, ""));
    let numbers: Vec<_> = numbers
        .split('.')
        .map(|number| match number.trim_start_matches('0') {
            "" if !number.is_empty() => "0",
            number => number,
        })
        .collect();
    numbers.join(".") + rest
}

fn compile(expression: &str) -> Result<Regex, String> {
    RegexBuilder::new(expression)
        .unicode(false)
        .size_limit(MAX_COMPILED)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "is too large".into(),
            // The last line is the reason; those before it draw the place.
            error => {
                let text = error.to_string();
                let reason = text.lines().last().unwrap_or_default();
                let reason = reason.strip_prefix("error: ").unwrap_or(reason);
                format!("regex:{expression}: {reason}")
            }
        })
}

/// The expression that matches what a glob matches: `*` any characters, `?` one, `[a-z]` one of these.
fn glob(text: &str) -> Result<String, String> {
    let mut expression = String::from(r"\A");
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '*' => expression.push_str(".*"),
            '?' => expression.push('.'),
            '[' => {
                let mut class = String::new();
                loop {
                    match characters.next() {
                        Some(']') if !class.is_empty() => break,
                        Some(inside) => class.push(inside),
                        None => return Err("has a [ without its ]".into()),
                    }
                }
                let (negation, class) = match class.strip_prefix(['!', '^']) {
                    Some(class) => ("^", class),
                    None => ("", class.as_str()),
                };
                // Two hyphens would be a difference of sets; as a range they are an error, or match nothing else.
                let class = class.replace(['\\', '[', '&', '~', '^'], "");
                let class = class.replace("--", r"-\-");
                for part in ["[", negation, &class, "]"] {
                    expression.push_str(part);
                }
            }
            other => expression.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
        }
    }
    expression.push_str(r"\z");
    Ok(expression)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const TAGS: &str = "latest 1 1.26 1.26.3 1.27 1.27.0 1.27.0-alpine 1.27.1 v1.28.0-rc.1 v1.28.0 2.0.0 edge-2024 \
                        1.27.1_build5 20240101";

    fn select(filters: &[&str]) -> String {
        let filters: Vec<TagFilter> = filters.iter().map(|text| text.parse().unwrap()).collect();
        let tags = TAGS.split_whitespace().map(str::to_owned).collect();
        TagFilters(&filters).select(tags).join(" ")
    }

    #[rstest]
    #[case::none(&[], &TAGS.split_whitespace().collect::<Vec<_>>().join(" "))]
    #[case::glob(&["1.27*"], "1.27 1.27.0 1.27.0-alpine 1.27.1 1.27.1_build5")]
    #[case::glob_is_anchored(&["1.27"], "1.27")]
    #[case::question(&["1.2?"], "1.26 1.27")]
    #[case::class(&["1.2[0-6]"], "1.26")]
    #[case::negated_class(&["1.2[!6]"], "1.27")]
    #[case::two_globs(&["latest", "edge-*"], "latest edge-2024")]
    #[case::excluded(&["1.27*", "!*-alpine", "!*_*"], "1.27 1.27.0 1.27.1")]
    #[case::only_excluded(&["!1*", "!v*", "!2*"], "latest edge-2024")]
    #[case::regex(&[r"regex:^v\d+\.\d+\.0$"], "v1.28.0")]
    #[case::regex_is_not_anchored(&["regex:alp"], "1.27.0-alpine")]
    #[case::range(&["semver:>=1.26 <1.28"], "1.26 1.26.3 1.27 1.27.0 1.27.1 1.27.1_build5")]
    #[case::range_with_commas(&["semver:>=1.27.1, <2"], "1.27.1 v1.28.0 1.27.1_build5")]
    #[case::range_with_v(&["semver:>= v1.28 <3"], "v1.28.0 2.0.0")]
    #[case::caret(&["semver:^2"], "2.0.0")]
    #[case::bare_version(&["semver:1.27"], "1.27 1.27.0 1.27.1 1.27.1_build5")]
    #[case::bare_full_version(&["semver:1.27.0"], "1.27 1.27.0")]
    #[case::newest(&["newest:2"], "v1.28.0 2.0.0")]
    #[case::newest_of_dates(&["20*", "edge*", "newest:2", "!2.*"], "20240101")]
    #[case::newest_of_a_form(&["1.2*", "newest:1"], "1.27.1_build5")]
    #[case::newest_of_a_variant(&["*-alpine", "newest:5"], "1.27.0-alpine")]
    #[case::nothing(&["none-*"], "")]
    fn filters_select_tags(#[case] filters: &[&str], #[case] selected: &str) {
        assert_eq!(select(filters), selected);
    }

    #[rstest]
    #[case::months(&["newest:3"], "22.04 23.10 24.04 24.10 25.04 latest", "24.04 24.10 25.04")]
    #[case::from_a_month(&["semver:>=24.04"], "22.04 23.10 24.04 24.10 25.04", "24.04 24.10 25.04")]
    #[case::four_numbers(&["newest:2"], "8.0.1.9 8.0.1.10 8.0.0.11", "8.0.1.9 8.0.1.10")]
    #[case::dates_and_builds(&["newest:2"], "1.28.0 1.29.0 20240101 3141592 2024-05-01", "1.28.0 1.29.0")]
    fn versions_of_many_kinds_are_understood(
        #[case] filters: &[&str],
        #[case] tags: &str,
        #[case] selected: &str,
    ) {
        let filters: Vec<TagFilter> = filters.iter().map(|text| text.parse().unwrap()).collect();
        let tags = tags.split_whitespace().map(str::to_owned).collect();
        assert_eq!(TagFilters(&filters).select(tags).join(" "), selected);
    }

    #[rstest]
    #[case("", "empty")]
    #[case("newest:0", "newest:5")]
    #[case("newest:many", "newest:5")]
    #[case("!newest:2", "newest: cannot be negated")]
    #[case("semver:", "semver:>=1.26 <2")]
    #[case("semver:>=one", "semver:>=one: ")]
    #[case("regex:(", "regex:(: unclosed group")]
    #[case("regex:(a{1000}){1000}", "too large")]
    #[case("glob:1.*", "glob: is no kind of filter")]
    #[case("1.[0-", "without its ]")]
    #[case("[a--b]", "range")]
    fn mistakes_are_named(#[case] filter: &str, #[case] words: &str) {
        let error = filter.parse::<TagFilter>().unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}
