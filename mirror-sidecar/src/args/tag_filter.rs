//! The filters of `--tags`.

use std::cmp::{Ordering, Reverse};
use std::str::FromStr;

use regex::bytes::{Regex, RegexBuilder};
use semver::{Version, VersionReq};

/// Memory of one compiled expression, in bytes. Tags have at most 128 characters, so no useful one needs more.
const MAX_COMPILED: usize = 1 << 20;

/// Digits of a single number that counts as a version, such as `16` and `v120`. Longer ones are dates and build numbers.
const LONGEST_MAJOR: usize = 4;

#[derive(Clone, Debug)]
pub enum TagFilter {
    Matching(Pattern),
    Excluding(Pattern),
    /// The highest versions that the other filters select.
    Newest(usize),
}

#[derive(Clone, Debug)]
pub enum Pattern {
    /// A glob or a regular expression.
    Expression(Regex),
    Versions(VersionReq),
}

/// All filters: a tag is selected if it matches a pattern, or there is none, and no excluded pattern.
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
            // Tags cannot contain a colon.
            Some((kind, _)) => Err(format!(
                "{kind}: is not a kind of filter; use a glob such as 1.27.*, regex:EXPRESSION, semver:RANGE or newest:NUMBER"
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
    /// Returns the selected tags in their order.
    pub fn select(&self, mut tags: Vec<String>) -> Vec<String> {
        tags.retain(|tag| self.matches(tag));
        let newest = self.0.iter().filter_map(|filter| match filter {
            TagFilter::Newest(number) => Some(*number),
            _ => None,
        });
        if let Some(number) = newest.min() {
            keep_highest(&mut tags, number);
        }
        tags
    }

    fn matches(&self, tag: &str) -> bool {
        let mut has_patterns = false;
        let mut is_matching = false;
        for filter in self.0 {
            match filter {
                TagFilter::Excluding(pattern) if pattern.matches(tag) => return false,
                TagFilter::Matching(pattern) => {
                    has_patterns = true;
                    is_matching |= pattern.matches(tag);
                }
                TagFilter::Excluding(_) | TagFilter::Newest(_) => {}
            }
        }
        is_matching || !has_patterns
    }
}

/// Keeps the tags with the `number` highest versions and drops tags that are not versions. Registries do not report when a
/// tag was pushed.
fn keep_highest(tags: &mut Vec<String>, number: usize) {
    let versions = tags.iter().enumerate();
    let mut ranked: Vec<_> = versions
        .filter_map(|(index, tag)| Some((TagVersion::of(tag)?, index)))
        .collect();
    // Dates and build numbers are higher than any version, but not newer.
    if ranked.iter().any(|(version, _)| !version.is_serial) {
        ranked.retain(|(version, _)| !version.is_serial);
    }
    ranked.sort_by(|(a, first), (b, second)| match a.precedence(b) {
        // 1.27.0 comes before 1.27.
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

struct TagVersion {
    version: Version,
    /// The fourth number, as in `8.0.1.2`. Semantic versions have none.
    revision: u64,
    /// A build number or a date: `20240101`, `2024-05-01`.
    is_serial: bool,
}

impl TagVersion {
    /// Parses `1.27.3` and `v1.27.3-rc.1`. `1.27-alpine` counts as `1.27.0-alpine`; leading zeros, as in `24.04`, are ignored.
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
        // Tags cannot contain `+`, so `_` is used for it.
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

/// Parses conditions that are separated by spaces or commas. `1.27` without an operator is any `1.27.x`.
fn parse_range(range: &str) -> Result<VersionReq, String> {
    let mut text = String::with_capacity(range.len());
    for word in range.split([' ', ',']).filter(|word| !word.is_empty()) {
        let is_after_operator = text.ends_with(['>', '<', '=', '^', '~']);
        if !text.is_empty() && !is_after_operator {
            text.push(',');
        }
        // `>=v1.2` is accepted as well.
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
        format!("semver:{range}: {error}; use a range such as >=1.26 <2, ^1.27 or ~1.27.3")
    })
}

/// `24.04` becomes `24.4`: semantic versions have no leading zeros.
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
            // The last line is the reason; the lines before show the position.
            error => {
                let text = error.to_string();
                let reason = text.lines().last().unwrap_or_default();
                let reason = reason.strip_prefix("error: ").unwrap_or(reason);
                format!("regex:{expression}: {reason}")
            }
        })
}

/// Translates a glob: `*` matches any characters, `?` one, `[a-z]` one of these.
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
                // Two hyphens would be a set difference.
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
    #[case("glob:1.*", "glob: is not a kind of filter")]
    #[case("1.[0-", "without its ]")]
    #[case("[a--b]", "range")]
    fn mistakes_are_named(#[case] filter: &str, #[case] words: &str) {
        let error = filter.parse::<TagFilter>().unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}
