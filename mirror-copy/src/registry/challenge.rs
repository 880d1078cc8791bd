//! Parses `WWW-Authenticate` (RFC 9110 section 11; the token specification of distribution for Bearer).

use http_auth::{ChallengeRef, parser::ChallengeParser};
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// Maximum number of challenges of one response that are parsed.
const MAX_CHALLENGES: usize = 16;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        /// The scope that the registry names; it may differ from that of the request.
        scope: Option<String>,
    },
}

/// Returns the preferred challenge: Bearer before Basic, whatever their order and number of headers.
pub(super) fn choose(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = None;
    let values = headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    for value in values.take(MAX_CHALLENGES) {
        // Everything before a syntax error is used.
        for challenge in ChallengeParser::new(value)
            .map_while(Result::ok)
            .take(MAX_CHALLENGES)
        {
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                if let Some(bearer) = bearer(&challenge) {
                    return Some(bearer);
                }
            } else if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

fn bearer(challenge: &ChallengeRef<'_>) -> Option<Challenge> {
    let parameter = |name: &str| {
        let found = challenge
            .params
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found
            .map(|(_, value)| value.to_unescaped())
            .filter(|value| !value.is_empty())
    };
    Some(Challenge::Bearer {
        realm: parameter("realm")?,
        service: parameter("service"),
        scope: parameter("scope"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn chosen(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap());
        }
        choose(&headers)
    }

    fn bearer_for(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        }
    }

    #[test]
    fn bearer_wins_in_one_header_and_in_two() {
        let bearer = r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull,push""#;
        let want = Some(bearer_for(
            "https://a/t",
            Some("s"),
            Some("repository:x:pull,push"),
        ));
        assert_eq!(chosen(&[r#"Basic realm="r""#, bearer]), want);
        assert_eq!(chosen(&[&format!(r#"Basic realm="r", {bearer}"#)]), want);
    }

    #[test]
    fn case_and_missing_parameters_do_not_matter() {
        assert_eq!(
            chosen(&[r#"BEARER Realm="https://a/t""#]),
            Some(bearer_for("https://a/t", None, None))
        );
        assert_eq!(chosen(&["basic realm=x"]), Some(Challenge::Basic));
    }

    #[test]
    fn nonsense_is_no_challenge() {
        assert_eq!(chosen(&[]), None);
        assert_eq!(chosen(&["Negotiate", "Bearer scope=x", "\"", ", ,"]), None);
    }
}
