//! The keys of `auths`: `host`, `host/path`, with a scheme and the paths of registry APIs, and with wildcards as kubelets
//! match them (kubernetes.io, "Images", "Interpretation of config.json").

use crate::registries::host;

pub(super) struct Key<'a> {
    host: &'a str,
    path: &'a str,
}

/// A key that matches a host.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MatchingKey {
    /// The repositories that the entry is for: this one and those below it. Empty for all of the host.
    pub(super) path: String,
    pub(super) is_wildcard: bool,
}

impl<'a> Key<'a> {
    pub(super) fn parse(text: &'a str) -> Self {
        let text = text.trim();
        let text = ["https://", "http://"]
            .iter()
            .find_map(|scheme| {
                let (start, rest) = text.split_at_checked(scheme.len())?;
                start.eq_ignore_ascii_case(scheme).then_some(rest)
            })
            .unwrap_or(text);
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        let path = path.trim_matches('/');
        // The paths of the APIs mean the whole host.
        let path = match path.split_once('/') {
            Some(("v1" | "v2", rest)) => rest,
            None if matches!(path, "v1" | "v2") => "",
            _ => path,
        };
        Self { host, path }
    }

    /// Returns `None` if this key is not for the host, which is in canonical form.
    pub(super) fn of(&self, host: &str) -> Option<MatchingKey> {
        // A host with plain HTTP keeps port 443 in its name.
        let is_exact = host::canonical(self.host) == host || host::spelled(self.host) == host;
        let is_wildcard = !is_exact && matches(self.host, host);
        (is_exact || is_wildcard).then(|| MatchingKey {
            path: self.path.to_owned(),
            is_wildcard,
        })
    }
}

/// Returns whether a host matches a pattern, label by label; the ports must be equal.
fn matches(pattern: &str, host: &str) -> bool {
    if !pattern.contains(['*', '?', '[', '\\']) {
        return false;
    }
    let pattern = host::canonical(pattern);
    let (pattern, port) = split_port(&pattern);
    let (host, host_port) = split_port(host);
    let (mut patterns, mut labels) = (pattern.split('.'), host.split('.'));
    port == host_port
        && loop {
            match (patterns.next(), labels.next()) {
                (None, None) => break true,
                (Some(pattern), Some(label))
                    if label_matches(pattern.as_bytes(), label.as_bytes()) => {}
                _ => break false,
            }
        }
}

fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, Some(port)),
        _ => (host, None),
    }
}

/// Matches the patterns of `path/filepath.Match` in Go, in time proportional to the product of both lengths: after a
/// mismatch only the last `*` takes one more byte.
fn label_matches(pattern: &[u8], label: &[u8]) -> bool {
    let (mut pattern, mut label) = (pattern, label);
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = pattern {
            retry = Some((rest, label));
            pattern = rest;
            continue;
        }
        let step = match (pattern, label) {
            ([], []) => return true,
            ([], _) | (_, []) => None,
            (_, [byte, rest @ ..]) => byte_matches(pattern, *byte).map(|pattern| (pattern, rest)),
        };
        (pattern, label) = match (step, retry) {
            (Some(next), _) => next,
            (None, Some((after, [_, rest @ ..]))) => {
                retry = Some((after, rest));
                (after, rest)
            }
            (None, _) => return false,
        };
    }
}

/// Returns the rest of the pattern after the term that matches this byte. `None` if it does not match, or is malformed.
fn byte_matches(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [b'?', rest @ ..] => Some(rest),
        [b'[', class @ ..] => {
            let (is_negated, mut class) = match class {
                [b'^', rest @ ..] => (true, rest),
                _ => (false, class),
            };
            let (mut is_in, mut is_first) = (false, true);
            loop {
                class = match class {
                    [b']', rest @ ..] if !is_first => {
                        return (is_in != is_negated).then_some(rest);
                    }
                    [low, b'-', high, rest @ ..] if *high != b']' => {
                        is_in |= (*low..=*high).contains(&byte);
                        rest
                    }
                    [one, rest @ ..] => {
                        is_in |= *one == byte;
                        rest
                    }
                    [] => return None,
                };
                is_first = false;
            }
        }
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => (*literal == byte).then_some(rest),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("a.example", Some(""))]
    #[case("A.example:443", Some(""))]
    #[case("https://a.example", Some(""))]
    #[case("HTTP://a.example/", Some(""))]
    #[case("a.example/v2/", Some(""))]
    #[case("https://a.example/v1", Some(""))]
    #[case("a.example/v2/team/", Some("team"))]
    #[case("a.example/team/app", Some("team/app"))]
    #[case("*.example/team", Some("team"))]
    #[case("a.example:5000", None)]
    #[case("b.example", None)]
    #[case("", None)]
    fn keys_of_a_host(#[case] key: &str, #[case] path: Option<&str>) {
        let found = Key::parse(key).of("a.example");
        assert_eq!(found.map(|key| key.path).as_deref(), path);
    }

    #[rstest::rstest]
    #[case("*.example.com", "a.example.com", true)]
    #[case("*.example.com", "a.b.example.com", false)]
    #[case("*.example.com", "example.com", false)]
    #[case("*", "registry", true)]
    #[case("*.com", "example.com", true)]
    #[case("a-*-c.*.com", "a-b-b-c.example.com", true)]
    #[case("a-*-c.*.com", "a-b-d.example.com", false)]
    #[case("re?.example.com", "reg.example.com", true)]
    #[case("re[a-g].example.com", "reg.example.com", true)]
    #[case("re[^a-g].example.com", "reg.example.com", false)]
    #[case("re[.example.com", "reg.example.com", false)]
    #[case("*.example.com", "a.example.com:5000", false)]
    #[case("*.example.com:5000", "a.example.com:5000", true)]
    #[case("*.example.com:443", "a.example.com", true)]
    #[case(
        "*.dkr.ecr.*.amazonaws.com",
        "123.dkr.ecr.eu-west-1.amazonaws.com",
        true
    )]
    fn wildcards(#[case] pattern: &str, #[case] host: &str, #[case] expected: bool) {
        assert_eq!(matches(pattern, host), expected);
    }

    #[test]
    fn many_stars_cost_little() {
        let pattern = format!("{}b", "*a".repeat(500));
        assert!(!label_matches(
            pattern.as_bytes(),
            "a".repeat(2000).as_bytes()
        ));
    }
}
