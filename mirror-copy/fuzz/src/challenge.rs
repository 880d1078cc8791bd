//! Checks of `WWW-Authenticate`.

use super::{REGISTRIES, check_address, check_text, headers};
use crate::registry::challenge::{Challenge, choose};
use crate::registry::token::Scopes;
use reqwest::header::HeaderMap;

const NAME: &[u8] = b"www-authenticate";
const GOOD: &[u8] = br#"Bearer realm="https://auth.example.com/token""#;
/// Fewer values than are parsed, by one.
const FEW: usize = 15;

/// Each line is a `WWW-Authenticate` of one response.
///
/// # Panics
/// If an invariant is violated.
pub fn challenge(data: &[u8]) {
    let lines: Vec<_> = data.split(|byte| *byte == b'\n').collect();
    let chosen = choose(&of(&lines));
    match &chosen {
        Some(Challenge::Bearer {
            realm,
            service,
            scope,
        }) => {
            assert!(!realm.is_empty());
            assert!(service.as_deref() != Some("") && scope.as_deref() != Some(""));
            check_realm(realm);
            check_scope(scope.as_deref());
        }
        Some(Challenge::Basic) => {
            let text = String::from_utf8_lossy(data).to_ascii_lowercase();
            assert!(text.contains("basic"), "no scheme with a password");
        }
        None => {}
    }
    if lines.len() <= FEW && !matches!(chosen, Some(Challenge::Bearer { .. })) {
        let with_bearer = [&lines[..], &[GOOD]].concat();
        let chosen = choose(&of(&with_bearer));
        assert!(
            matches!(chosen, Some(Challenge::Bearer { .. })),
            "Bearer comes before everything else"
        );
    }
}

fn of(lines: &[&[u8]]) -> HeaderMap {
    headers(lines.iter().map(|line| (NAME, *line)))
}

fn check_realm(realm: &str) {
    for registry in REGISTRIES.iter() {
        match registry.checked_realm(realm) {
            Ok((url, _)) => {
                check_address(registry, &url);
                assert!(url.username().is_empty() && url.password().is_none());
            }
            Err(error) => check_text(&error),
        }
    }
}

/// The scopes of a challenge only add to those of the request.
fn check_scope(scope: Option<&str>) {
    let own = Scopes::push("team/app");
    let extra = own.missing_from(scope);
    let all = own.union(&extra);
    assert!(all.cover(&own));
    let are_scopes = extra.iter().all(|scope| scope.contains(':'));
    assert!(!are_scopes || all.cover(&extra));
    assert_eq!(all.union(&own), all);
}
