//! A host whose responses are lines of the fuzzer's input.
//!
//! The first new request gets the first line, and so on; the same request always gets the same response. A line is a
//! manifest; or the text of an error if it starts with `!`, with `\n` for line breaks; or empty, for the response that there
//! is a copy, or the image itself for the target of a rewrite. Each `+` before that lets 100 ms pass.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mirror_contract::{
    Backup, Digest, ImageRef, ImageStatus, Mode, Naming, Place, PullSecretStatus, Query, Refusal,
    RefusalKind,
};
use serde_json::{Value, json};

use crate::{Host, HostError};

const STEP: Duration = Duration::from_millis(100);
const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

#[derive(Clone)]
struct Reply {
    delay: Duration,
    result: Result<String, HostError>,
}

/// The host, and behind it the sidecar.
pub struct Sidecar<'a> {
    lines: Vec<&'a [u8]>,
    address: String,
    budget: Duration,
    mode: Mode,
    known: BTreeMap<String, Reply>,
    /// `host/path` of every copy that was reported.
    copies: BTreeSet<String>,
    /// `host/path@digest` of every original that was reported.
    originals: BTreeSet<String>,
    requests: BTreeSet<String>,
    now: Duration,
    is_next_request: bool,
}

impl<'a> Sidecar<'a> {
    /// Responds with `lines` to a policy with `settings`.
    pub fn new(lines: impl Iterator<Item = &'a [u8]>, settings: &Value, is_dry_run: bool) -> Self {
        let mut lines: Vec<_> = lines.collect();
        lines.reverse();
        Self {
            lines,
            address: settings["sidecar"].as_str().unwrap_or_default().to_owned(),
            budget: Duration::from_millis(settings["timeBudgetMs"].as_u64().unwrap_or(800)),
            mode: if is_dry_run { Mode::Peek } else { Mode::Ensure },
            known: BTreeMap::new(),
            copies: BTreeSet::new(),
            originals: BTreeSet::new(),
            requests: BTreeSet::new(),
            now: Duration::ZERO,
            is_next_request: false,
        }
    }

    /// Panics at every request.
    pub fn unreachable() -> Self {
        let mut sidecar = Self::new(std::iter::empty(), &Value::Null, false);
        sidecar.budget = Duration::ZERO;
        sidecar
    }

    /// The same sidecar for the next admission request: it makes no further copies, and reports its copies as in the backup.
    pub fn next_request(self) -> Self {
        Self {
            requests: BTreeSet::new(),
            now: Duration::ZERO,
            is_next_request: true,
            ..self
        }
    }

    /// Panics if `copy` was reported neither as a copy nor as the original with its digest, or has another digest than
    /// `original`.
    pub fn check_copy(&self, original: &str, copy: &str) {
        let original = ImageRef::parse(original).expect("only images are replaced");
        let copy = ImageRef::parse(copy).expect("a copy is an image");
        let pinned = copy.clone().without_redundant_tag().to_string();
        if self.originals.contains(&pinned) {
            assert_eq!(name(&original), name(&copy));
            assert_eq!(original.tag(), copy.tag());
            return;
        }
        assert!(self.copies.contains(&name(&copy)), "{copy} is not a copy");
        if original.digest().is_some() {
            assert_eq!(original.digest(), copy.digest());
        }
    }

    fn reply(&mut self, reference: &str, query: &Query<'_>) -> Reply {
        if self.is_next_request {
            let place = match query {
                Query::Image { image, place, .. } if self.copies.contains(&name(image)) => {
                    Some(place)
                }
                _ => None,
            };
            return match (place, self.known.get(reference)) {
                (Some(Place::Target), _) => Reply::immediate(Ok(mirrored(query))),
                (Some(Place::Backup(_)), _) => Reply::immediate(Ok(in_backup())),
                (Some(Place::Original(_)) | None, Some(reply)) => reply.clone(),
                (Some(Place::Original(_)) | None, None) => Reply::immediate(Err(unavailable())),
            };
        }
        let mut line = self.lines.pop().unwrap_or_default();
        let mut delay = Duration::ZERO;
        while let [b'+', rest @ ..] = line {
            line = rest;
            delay += STEP;
        }
        let result = match line {
            [] => Ok(mirrored(query)),
            [b'!', text @ ..] => Err(HostError(
                String::from_utf8_lossy(text).replace("\\n", "\n"),
            )),
            text => Ok(String::from_utf8_lossy(text).into_owned()),
        };
        Reply { delay, result }
    }
}

impl Host for Sidecar<'_> {
    fn manifest(&mut self, reference: &str) -> Result<String, HostError> {
        assert!(self.now < self.budget, "requested after the time budget");
        let is_new = self.requests.insert(reference.to_owned());
        // One of an original is requested again if it was pending.
        let is_pending = self.known.get(reference).is_some_and(Reply::is_pending);
        assert!(is_new || is_pending, "{reference} is requested twice");
        let (repository, tag) = reference
            .strip_prefix(&self.address)
            .and_then(|rest| rest.strip_prefix('/')?.rsplit_once(':'))
            .expect("all requests go to the sidecar");
        let query = Query::decode(repository, tag).expect("it is a query");
        let (Query::Image { mode, .. } | Query::PullSecret { mode, .. }) = &query;
        assert_eq!(*mode, self.mode, "{reference}");
        let reply = self.reply(reference, &query);
        if let Ok(manifest) = &reply.result {
            self.copies.extend(reported(manifest));
            if let Query::Image { image, place, .. } = &query
                && matches!(place, Place::Original(_))
            {
                self.originals.insert(image.to_string());
            }
        }
        self.known.insert(reference.to_owned(), reply.clone());
        self.now += reply.delay;
        reply.result
    }

    fn log(&mut self, event: &[u8]) {
        let event: Value = serde_json::from_slice(event).expect("an event is JSON");
        assert!(event["level"].is_string() && event["message"].is_string());
    }

    fn elapsed(&self) -> Duration {
        self.now
    }
}

impl Reply {
    fn is_pending(&self) -> bool {
        let error = self.result.as_ref().err();
        let refusal = error.and_then(|error| Refusal::find(&error.0));
        refusal.is_some_and(|refusal| refusal.kind == RefusalKind::Pending)
    }

    fn immediate(result: Result<String, HostError>) -> Self {
        let delay = Duration::ZERO;
        Self { delay, result }
    }
}

fn name(image: &ImageRef<'_>) -> String {
    format!("{}/{}", image.host(), image.path())
}

/// The copy that a manifest names.
fn reported(manifest: &str) -> Option<String> {
    let manifest: Value = serde_json::from_str(manifest).ok()?;
    let status = ImageStatus::from_annotations(|key| manifest["annotations"][key].as_str())?;
    match status {
        ImageStatus::Mirrored { image, .. } => Some(name(&image)),
        _ => None,
    }
}

fn mirrored(query: &Query<'_>) -> String {
    let (image, place) = match query {
        Query::PullSecret { .. } => {
            let name = "image-mirror-pull".into();
            return manifest(&PullSecretStatus::Ready { name }.annotations());
        }
        Query::Image { image, place, .. } => (image, place),
    };
    let copy = match place {
        Place::Original(_) => {
            let digest = image.digest().cloned().expect("a digest");
            return manifest(&ImageStatus::Original { digest }.annotations());
        }
        Place::Target => Some(image.clone()),
        Place::Backup(name) => {
            let name = name.to_string();
            let repository = if name == "default" { "acme" } else { &name };
            let backup = Backup::new("backup.test", repository, Naming::Flat);
            backup.expect("it is a registry").target(image).ok()
        }
    };
    let digest = image.digest().cloned().or_else(|| Digest::parse(DIGEST));
    match (copy, digest) {
        (Some(image), Some(digest)) => {
            let secret = None;
            let status = ImageStatus::Mirrored {
                image,
                digest,
                secret,
            };
            manifest(&status.annotations())
        }
        _ => excluded(),
    }
}

fn in_backup() -> String {
    manifest(
        &ImageStatus::InBackup {
            secret: None,
            is_former: false,
            is_unavailable: false,
        }
        .annotations(),
    )
}

fn excluded() -> String {
    let reason = "denied".into();
    manifest(&ImageStatus::Excluded { reason }.annotations())
}

fn manifest(annotations: &[(&str, String)]) -> String {
    let annotations: BTreeMap<_, _> = annotations.iter().cloned().collect();
    json!({ "annotations": annotations }).to_string()
}

fn unavailable() -> HostError {
    HostError(Refusal::new(RefusalKind::Unavailable, "slow").to_string())
}
