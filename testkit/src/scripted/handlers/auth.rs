//! Logging in: passwords, tokens (distribution's token specification and its OAuth 2 variant), signed addresses.

use super::exchange::{Answer, Asked, error, finish, plain};
use crate::scripted::fake::Fake;
use crate::scripted::knobs::Auth;
use crate::scripted::state::State;
use axum::http::{HeaderValue, Method, Response, header};
use base64::Engine as _;

/// What ECR says of a password that has expired.
const EXPIRED: &str = r#"{"errors":[{"code":"DENIED","message":"Your authorization token has expired. Reauthenticate and try again."}]}"#;

pub(super) fn token(fake: &Fake, asked: &Asked<'_>) -> Answer {
    let mut state = fake.state();
    let Auth::Bearer { user, expires_in } = state.knobs.auth.clone() else {
        return error(404, "NOT_FOUND");
    };
    let pairs = |text: &[u8]| -> Vec<(String, String)> {
        url::form_urlencoded::parse(text).into_owned().collect()
    };
    let form = pairs(&asked.body);
    let refresh = form.iter().find(|(key, _)| key == "refresh_token");
    if let Some((name, password)) = user {
        let authorization = asked.header(&header::AUTHORIZATION);
        let by_password = authorization == Some(basic(&name, &password).as_str());
        if !by_password && refresh.map(|(_, value)| value) != Some(&password) {
            return error(401, "UNAUTHORIZED");
        }
    }
    let scopes = pairs(asked.query.as_bytes())
        .into_iter()
        .chain(form)
        .filter(|(key, _)| key == "scope")
        .flat_map(|(_, value)| value.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    state.tokens_made += 1;
    let token = format!("token-{}", state.tokens_made);
    state.tokens.insert(token.clone(), scopes);
    let body = match state.knobs.token_answer {
        Some(template) => template.replace("$TOKEN", &token),
        None => format!(r#"{{"token":"{token}","expires_in":{expires_in}}}"#),
    };
    finish(Response::builder(), body)
}

fn basic(user: &str, password: &str) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {encoded}")
}

/// The refusal that this request deserves, if any.
pub(super) fn refused(fake: &Fake, asked: &Asked<'_>, repository: &str) -> Option<Answer> {
    let mut state = fake.state();
    if state.knobs.signed {
        return unsigned(&mut state, asked);
    }
    let shown = asked.header(&header::AUTHORIZATION);
    let write = !matches!(*asked.method, Method::GET | Method::HEAD);
    let challenge = match &state.knobs.auth {
        Auth::Open => return None,
        Auth::Basic { user, password } => {
            let mut users = state.knobs.other_users.iter();
            if shown == Some(basic(user, password).as_str())
                || users.any(|(user, password)| shown == Some(basic(user, password).as_str()))
            {
                return None;
            }
            r#"Basic realm="fake, really""#.to_owned()
        }
        Auth::Bearer { .. } => {
            if token_allows(&state, asked, repository, write) {
                return None;
            }
            let actions = if write { "pull,push" } else { "pull" };
            format!(
                r#"Bearer realm="$REALM",service="fake",scope="repository:{repository}:{actions}""#
            )
        }
    };
    // Who shows nothing is asked to log in; what is shown and not valid is answered as this registry does it.
    let status = if shown.is_none() {
        401
    } else {
        state.knobs.expired_status
    };
    if status != 401 {
        return Some(plain(status, EXPIRED));
    }
    let mut answer = error(401, "UNAUTHORIZED");
    let realm = format!("http://{}/token", fake.address);
    for challenge in state.knobs.challenges.clone().unwrap_or(vec![challenge]) {
        let challenge = HeaderValue::from_str(&challenge.replace("$REALM", &realm))
            .expect("a challenge is printable");
        answer
            .headers_mut()
            .append(header::WWW_AUTHENTICATE, challenge);
    }
    Some(answer)
}

fn token_allows(state: &State, asked: &Asked<'_>, repository: &str, write: bool) -> bool {
    let token = asked
        .header(&header::AUTHORIZATION)
        .and_then(|value| value.strip_prefix("Bearer "));
    let Some(scopes) = token.and_then(|token| state.tokens.get(token)) else {
        return false;
    };
    let grants = |repository: &str, action: &str| {
        let wanted = format!("repository:{repository}:");
        scopes.iter().any(|scope| {
            scope
                .strip_prefix(&wanted)
                .is_some_and(|got| got.contains(action))
        })
    };
    let mount_allowed = asked
        .parameters()
        .get("from")
        .is_none_or(|from| grants(from, "pull"));
    let action = if write { "push" } else { "pull" };
    mount_allowed && (repository.is_empty() || grants(repository, action))
}

/// What an object store says: two ways to log in at once are an error, and a signature expires.
fn unsigned(state: &mut State, asked: &Asked<'_>) -> Option<Answer> {
    if asked.header(&header::AUTHORIZATION).is_some() {
        return Some(plain(400, "InvalidArgument: Only one auth mechanism"));
    }
    let fresh = asked
        .parameters()
        .remove("X-Signature")
        .is_some_and(|signature| state.signatures_used.insert(signature));
    (!fresh).then(|| plain(403, "AccessDenied: Request has expired"))
}
