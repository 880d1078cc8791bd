//! Logs that a registry fills or forges.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::ensure;
use axum::http::Method;
use bytes::Bytes;

use super::documents::{self, Document, PAGE};
use super::foreign_bytes::{app, honest};
use super::site::{Site, hostile, response, wait};
use super::{Attack, Measured, Setup};
use testkit::scripted::{Fake, OCI_INDEX, OCI_MANIFEST};
use testkit::{artifacts, blocking};

/// What a forged line would begin with.
const FORGED: &str = "forged";
/// Warnings that one list may cause: one for the list, and one for the copy.
const WARNINGS: usize = 4;
/// Bytes of log that one hostile image may cause.
const BYTES: usize = 64 << 10;

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "A referrers list with a million unusable entries: log volume",
        bound: "4 warnings, 64 KiB",
        is_short: true,
        run: volume,
    },
    Attack {
        name: "Line breaks in digests, media types and error messages: log lines that are forged",
        bound: "0 lines",
        is_short: true,
        run: forging,
    },
];

fn volume(setup: Setup) -> anyhow::Result<Measured> {
    let mut warnings = 0;
    let mut bytes = 0;
    for document in documents::referrers(PAGE.min(setup.document)) {
        let sources = hostile(move |method, path, _| {
            if path.contains("/referrers/") {
                return response(200, document.media_type, document.body.clone());
            }
            honest(&app(path), method, path)
        });
        let Some(source) = sources.first() else {
            continue;
        };
        let site = Site::start(setup, &[source])?;
        let image = format!("{}/team/app-1:1", source.host());
        let before = site.sidecar.lines().len();
        site.ask(&image)?;
        // Whether the copy succeeds is not the matter; after its end nothing more is logged.
        let is_met = wait(Duration::from_secs(20), || {
            source.count(&Method::GET, "/referrers/") > 0
        });
        ensure!(is_met, "no referrers were requested");
        std::thread::sleep(Duration::from_secs(2));
        let lines = site.sidecar.lines().split_off(before);
        let is_warning = |line: &&String| line.contains("WARN") || line.contains("ERROR");
        warnings = warnings.max(lines.iter().filter(is_warning).count());
        bytes = bytes.max(lines.iter().map(String::len).sum());
    }
    Ok(Measured {
        value: format!("{warnings} warnings, {} KiB", bytes.div_ceil(1024)),
        is_within_bound: warnings <= WARNINGS && bytes <= BYTES,
    })
}

fn forging(_: Setup) -> anyhow::Result<Measured> {
    let mut forged = 0;
    let mut runs = 0;
    for document in forgeries() {
        let sources = hostile(move |method, path, _| {
            let is_right = path.contains("/manifests/") || path.contains("/referrers/");
            if document.media_type == OCI_INDEX && path.contains("/manifests/") {
                return honest(&app(path), method, path);
            }
            if is_right && *method == Method::GET {
                return response(200, document.media_type, document.body.clone());
            }
            if document.name == "error" {
                return response(400, "application/json", document.body.clone());
            }
            response(
                if path == "/v2/" { 200 } else { 404 },
                "application/json",
                "{}",
            )
        });
        let Some(source) = sources.first() else {
            continue;
        };
        let backup = blocking::run(Fake::start());
        for level in ["info", "debug"] {
            let output = Command::new(artifacts::sidecar_program()?)
                .args(["copy", &format!("{}/team/app-1:1", source.host())])
                .args(["--to", &format!("{}/copies/app:1", backup.host())])
                .args(["--insecure-registry", &source.host()])
                .args(["--insecure-registry", &backup.host()])
                .args(["--log-format", "text", "--log-level", level])
                .env_clear()
                .stdin(Stdio::null())
                .output()?;
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}']);
            forged += lines
                .filter(|line| line.trim_start().starts_with(FORGED))
                .count();
            runs += 1;
        }
    }
    Ok(Measured {
        value: format!("{forged} lines in {runs} copies"),
        is_within_bound: forged == 0,
    })
}

/// Documents that have a line break in every text that may reach a log.
fn forgeries() -> Vec<Document> {
    let digest = format!("sha256:{}", "a".repeat(64));
    let breaks = format!(r"x\n{FORGED} 1\r{FORGED} 2\u0085{FORGED} 3\u2028{FORGED} 4");
    let document = |name, media_type, body: String| Document {
        name,
        media_type,
        body: Bytes::from(body),
    };
    let config = format!(r#"{{"mediaType":"x","digest":"{digest}","size":2}}"#);
    vec![
        document(
            "digest of the config",
            OCI_MANIFEST,
            format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{breaks}","size":2}},"layers":[]}}"#
            ),
        ),
        document(
            "media type of the config",
            OCI_MANIFEST,
            format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"{breaks}","digest":"{digest}","size":2}},"layers":[]}}"#
            ),
        ),
        document(
            "media type of the manifest",
            OCI_MANIFEST,
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{breaks}","config":{config},"layers":[]}}"#
            ),
        ),
        document(
            "layers",
            OCI_MANIFEST,
            format!(
                r#"{{"schemaVersion":2,"config":{config},"layers":[{{"mediaType":"{breaks}","digest":"sha256:{breaks}","size":2,"urls":["{breaks}"]}}]}}"#
            ),
        ),
        document(
            "platform",
            OCI_MANIFEST,
            format!(
                r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{breaks}","digest":"{breaks}","size":1,"platform":{{"os":"{breaks}","architecture":"{breaks}"}}}}]}}"#
            ),
        ),
        document(
            "referrers",
            OCI_INDEX,
            format!(
                r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{breaks}","digest":"{breaks}","size":1,"artifactType":"{breaks}"}}]}}"#
            ),
        ),
        document(
            "error",
            "application/json",
            format!(r#"{{"errors":[{{"code":"{breaks}","message":"{breaks}"}}]}}"#),
        ),
    ]
}
