//! The cells of the copy engine: one copy with a fault that passes, and one with a fault that stays.

use super::Run;
use super::fault::{Fault, PRIVATE, UNKNOWN_HOST};
use super::log::shows_secret;
use super::request::Request;
use crate::support::{PASSWORD, copy_app, options};
use axum::http::Method;
use mirror_copy::{CopyError, CopyReport, Login, Registries, RegistryError, RetryPolicy, Timeouts};
use std::net::SocketAddr;
use std::time::Duration;
use testkit::scripted::{Action, Auth, Fake, Image, image, noise, referrer};
use testkit::tls::Tls;
use tokio::sync::OnceCell;

/// Requests in a row that fail before a passing fault is over.
const PASSES_AFTER: usize = 2;

/// More than [`PASSES_AFTER`].
const ATTEMPTS: usize = 4;

/// Source and target, and what is copied.
struct World {
    from: Fake,
    to: Fake,
    app: Image,
    signature: Image,
    /// An older image that the target's tag stands for.
    old: Image,
}

pub async fn run(request: Request, fault: Fault) -> Run {
    let passing = attempt(request, fault, false).await;
    let lasting = attempt(request, fault, true).await;
    let outcome = if passing.outcome == lasting.outcome {
        passing.outcome
    } else {
        format!("{} / {}", passing.outcome, lasting.outcome)
    };
    let violations = [passing.violations, lasting.violations].concat();
    Run {
        outcome,
        violations,
    }
}

async fn attempt(request: Request, fault: Fault, lasts: bool) -> Run {
    let world = World::start(request).await;
    world.fail(request, fault, lasts).await;
    let result = copy_app(&world.registries(fault), &world.from, &world.to).await;
    Run {
        outcome: world.outcome(request, &result),
        violations: world.violations(request, &result),
    }
}

impl World {
    async fn start(request: Request) -> Self {
        let world = Self {
            from: Fake::start().await,
            to: Fake::start().await,
            // A single blob, so that it is known which request comes next.
            app: image(1, &[]),
            signature: referrer(
                &image(1, &[]),
                "application/vnd.example.signature",
                &noise(2, 100),
            ),
            old: image(9, &[noise(9, 500)]),
        };
        for fake in [&world.from, &world.to] {
            fake.set(|knobs| {
                knobs.auth = Auth::Bearer {
                    user: Some(("user".into(), PASSWORD.into())),
                    expires_in: "300",
                };
            });
        }
        world.from.put_tagged("app", "1", &world.app);
        if request == Request::Referrers {
            world.from.put("app", &world.signature);
        }
        // With an older image there, the target is asked for each blob; without mounts it is asked by HEAD.
        world.to.put_tagged("copy", "1", &world.old);
        if request == Request::BlobHead {
            let refusal = Action::Status(405, Vec::new(), "");
            world.to.fault(Method::POST, "mount=", 3, refusal);
        }
        if request == Request::UploadPatch {
            // A registry that refuses a whole blob gets it in chunks.
            let refusal = Action::Status(501, Vec::new(), "");
            world.to.fault(Method::PUT, "/blobs/uploads/", 1, refusal);
        }
        world
    }

    /// Makes the fault happen to the next requests of this kind.
    async fn fail(&self, request: Request, fault: Fault, lasts: bool) {
        let faulty = if request.is_of_source() {
            &self.from
        } else {
            &self.to
        };
        let untrusted = untrusted().await;
        if request == Request::Token
            && let Some(realm) = realm(fault, untrusted)
        {
            // A token service elsewhere is no fault of one response: it stays.
            faulty.set(|knobs| knobs.challenges = Some(vec![realm]));
            return;
        }
        let (method, part) = request.pattern();
        let times = match fault {
            _ if lasts => usize::MAX,
            // Busy machines need the other attempts.
            Fault::Refused | Fault::Timeout | Fault::Slow => 1,
            _ => PASSES_AFTER,
        };
        let action = fault.action(request, faulty.address, untrusted, lasts);
        faulty.fault(method, part, times, action);
    }

    fn registries(&self, fault: Fault) -> Registries {
        let mut options = options(&[&self.from, &self.to]);
        for fake in [&self.from, &self.to] {
            let login = Login {
                username: "user".into(),
                password: PASSWORD.to_owned().into(),
            };
            options.credentials =
                std::mem::take(&mut options.credentials).with_login(&fake.host(), login);
        }
        let idle = if fault.is_about_time() { 700 } else { 10_000 };
        options.timeouts = Timeouts {
            connect: Duration::from_secs(5),
            idle: Duration::from_millis(idle),
            first_byte: Duration::from_millis(idle),
            list: Duration::from_secs(10),
            commit: Duration::from_millis(idle * 2),
        };
        options.retry = RetryPolicy {
            attempts: ATTEMPTS,
            first_delay: Duration::from_millis(40),
            max_delay: Duration::from_millis(300),
            max_retry_after: Duration::from_millis(100),
            total: Duration::from_secs(8),
            visible_within: Duration::from_millis(300),
        };
        Registries::new(options).unwrap()
    }

    fn outcome(&self, request: Request, result: &Result<CopyReport, CopyError>) -> String {
        match result {
            Ok(_) if request == Request::Referrers && !self.to.has("copy", &self.signature) => {
                "copied without referrers".into()
            }
            Ok(_) => "copied".into(),
            Err(error) if error.retry().is_transient() => format!("later: {}", class(error)),
            Err(error) => format!("final: {}", class(error)),
        }
    }

    /// What must not be, whatever the outcome.
    fn violations(&self, request: Request, result: &Result<CopyReport, CopyError>) -> Vec<String> {
        let mut violations = Vec::new();
        let tag = self.to.tag("copy", "1");
        let is = |image: &Image| tag == Some(image.digest().to_string());
        if is(&self.app) && !self.to.has("copy", &self.app) {
            violations.push("the tag stands for an incomplete image".into());
        } else if !is(&self.app) && !is(&self.old) {
            violations.push(format!("the tag stands for {tag:?}"));
        } else if result.is_ok() && !is(&self.app) {
            violations.push("the copy succeeded without its tag".into());
        }
        let (method, part) = match request {
            // Its address may be the fault.
            Request::Token => (Method::GET, "/manifests/1"),
            _ => request.pattern(),
        };
        let faulty = if request.is_of_source() {
            &self.from
        } else {
            &self.to
        };
        if faulty.count(&method, part) == 0 {
            violations.push("the request was never sent".into());
        }
        if let Err(error) = result {
            let text = format!("{error} {error:?}");
            if shows_secret(&text) {
                violations.push(format!("secret in the error: {text}"));
            }
            if error.to_string().contains('\n') {
                violations.push(format!("error of several lines: {error}"));
            }
        }
        violations
    }
}

/// The challenge of a registry whose token service fails in a way that only its address can tell.
fn realm(fault: Fault, untrusted: SocketAddr) -> Option<String> {
    let realm = match fault {
        Fault::Tls => format!("https://{untrusted}/token"),
        Fault::Dns => UNKNOWN_HOST.to_owned(),
        Fault::RedirectPrivate => PRIVATE.to_owned(),
        _ => return None,
    };
    Some(format!(r#"Bearer realm="{realm}",service="fake""#))
}

/// A registry with a certificate that nobody trusts, one for all cells.
async fn untrusted() -> SocketAddr {
    static UNTRUSTED: OnceCell<SocketAddr> = OnceCell::const_new();
    let start = async || Fake::start_tls(&Tls::generate().unwrap()).await.address;
    *UNTRUSTED.get_or_init(start).await
}

/// The reason of a failure in a word or two.
fn class(error: &CopyError) -> String {
    let error = match error {
        CopyError::Source(error) | CopyError::Target(error) => error,
        other => return variant(other),
    };
    match error {
        RegistryError::Status { status, .. } => status.as_u16().to_string(),
        RegistryError::Transport { .. } => "connection".into(),
        other => variant(other),
    }
}

/// The name of an enum's variant, in lower case with spaces.
fn variant(error: &impl std::fmt::Debug) -> String {
    let text = format!("{error:?}");
    let name: String = text
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect();
    let mut words = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
    }
    words
}
