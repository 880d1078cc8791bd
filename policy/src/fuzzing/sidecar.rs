//! A host whose answers are lines of the fuzzer's input.
//!
//! The first new question gets the first line, and so on; the same question always gets the same answer. A line is a
//! manifest; or the text of an error if it starts with `!`, with `\n` for line breaks; or nothing, for the answer that
//! there is a copy. Each `+` before that lets 100 ms pass.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mirror_contract::{
    Backup, Digest, ImageRef, ImageStatus, Mode, Naming, PullSecretStatus, Query, Refusal,
    RefusalKind,
};
use serde_json::{Value, json};

use crate::{Host, HostError};

const STEP: Duration = Duration::from_millis(100);
const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

#[derive(Clone)]
struct Reply {
    takes: Duration,
    says: Result<String, HostError>,
}

/// The host, and behind it the sidecar.
pub struct Sidecar<'a> {
    lines: Vec<&'a [u8]>,
    address: String,
    budget: Duration,
    mode: Mode,
    known: BTreeMap<String, Reply>,
    /// `host/path` of every copy that was announced.
    copies: BTreeSet<String>,
    asked: BTreeSet<String>,
    now: Duration,
    is_second_round: bool,
}

impl<'a> Sidecar<'a> {
    /// Answers with these lines to a policy of these settings.
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
            asked: BTreeSet::new(),
            now: Duration::ZERO,
            is_second_round: false,
        }
    }

    /// Panics at every question.
    pub fn that_is_not_asked() -> Self {
        let mut sidecar = Self::new(std::iter::empty(), &Value::Null, false);
        sidecar.budget = Duration::ZERO;
        sidecar
    }

    /// The same sidecar for the next request, but that it knows nothing new, and tells that its copies are no originals.
    pub fn once_more(self) -> Self {
        Self {
            asked: BTreeSet::new(),
            now: Duration::ZERO,
            is_second_round: true,
            ..self
        }
    }

    /// Panics if `copy` was not announced, or is not a copy of what `original` asks for.
    pub fn check_copy(&self, original: &str, copy: &str) {
        let original = ImageRef::parse(original).expect("only images are replaced");
        let copy = ImageRef::parse(copy).expect("a copy is an image");
        assert!(self.copies.contains(&name(&copy)), "{copy} is no copy");
        if original.digest().is_some() {
            assert_eq!(original.digest(), copy.digest());
        }
    }

    fn reply(&mut self, reference: &str, query: &Query<'_>) -> Reply {
        if self.is_second_round {
            let is_copy =
                matches!(query, Query::Image { image, .. } if self.copies.contains(&name(image)));
            return match self.known.get(reference) {
                _ if is_copy => Reply::at_once(Ok(in_backup())),
                Some(reply) => reply.clone(),
                None => Reply::at_once(Err(unavailable())),
            };
        }
        let mut line = self.lines.pop().unwrap_or_default();
        let mut takes = Duration::ZERO;
        while let [b'+', rest @ ..] = line {
            line = rest;
            takes += STEP;
        }
        let says = match line {
            [] => Ok(mirrored(query)),
            [b'!', text @ ..] => Err(HostError(
                String::from_utf8_lossy(text).replace("\\n", "\n"),
            )),
            text => Ok(String::from_utf8_lossy(text).into_owned()),
        };
        Reply { takes, says }
    }
}

impl Host for Sidecar<'_> {
    fn manifest(&mut self, reference: &str) -> Result<String, HostError> {
        assert!(self.now < self.budget, "asked without time for it");
        let is_new = self.asked.insert(reference.to_owned());
        assert!(is_new, "{reference} is asked twice");
        let (repository, tag) = reference
            .strip_prefix(&self.address)
            .and_then(|rest| rest.strip_prefix('/')?.rsplit_once(':'))
            .expect("only the sidecar is asked");
        let query = Query::decode(repository, tag).expect("the sidecar understands");
        let (Query::Image { mode, .. } | Query::PullSecret { mode, .. }) = &query;
        assert_eq!(*mode, self.mode, "{reference}");
        let reply = self.reply(reference, &query);
        if let Ok(manifest) = &reply.says {
            self.copies.extend(announced(manifest));
        }
        self.known.insert(reference.to_owned(), reply.clone());
        self.now += reply.takes;
        reply.says
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
    fn at_once(says: Result<String, HostError>) -> Self {
        let takes = Duration::ZERO;
        Self { takes, says }
    }
}

fn name(image: &ImageRef<'_>) -> String {
    format!("{}/{}", image.host(), image.path())
}

/// The copy that a manifest names.
fn announced(manifest: &str) -> Option<String> {
    let manifest: Value = serde_json::from_str(manifest).ok()?;
    let answer = ImageStatus::from_annotations(|key| manifest["annotations"][key].as_str())?;
    match answer {
        ImageStatus::Mirrored { image, .. } => Some(name(&image)),
        ImageStatus::InBackup { .. } | ImageStatus::Excluded { .. } => None,
    }
}

fn mirrored(query: &Query<'_>) -> String {
    let backup = Backup::new("backup.test", "acme", Naming::Flat).expect("it is a registry");
    let image = match query {
        Query::PullSecret { .. } => {
            let name = "image-mirror-pull".into();
            return manifest(&PullSecretStatus::Ready { name }.annotations());
        }
        Query::Image { image, .. } => image,
    };
    let digest = image.digest().cloned().or_else(|| Digest::parse(DIGEST));
    match (backup.target(image), digest) {
        (Ok(image), Some(digest)) => {
            let secret = None;
            let answer = ImageStatus::Mirrored {
                image,
                digest,
                secret,
            };
            manifest(&answer.annotations())
        }
        _ => excluded(),
    }
}

fn in_backup() -> String {
    manifest(
        &ImageStatus::InBackup {
            secret: None,
            is_former: false,
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
