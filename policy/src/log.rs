//! Log events for Kubewarden's host: `level`, `message`, and any other fields.

use serde::Serialize;

use crate::host::Host;
use crate::request::Request;
use crate::response::Report;
use crate::truncate::cut;

/// Characters. Error texts of the host may contain a backtrace.
const MAX_HOST_ERROR: usize = 500;
/// Bytes. The whole list is in the audit annotations.
const MAX_LIST: usize = 2 * 1024;

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Debug,
    Info,
    Warning,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    level: Level,
    message: &'a str,
    policy: &'static str,
    uid: &'a str,
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
    dry_run: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    rewritten: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    left_to_pods: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    from_annotation: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    failed_over: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pull_secret: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    not_mirrored: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    host_error: &'a str,
}

/// Logs what happened to the images of an object, if anything.
pub fn report(
    report: &Report,
    request: &Request<'_>,
    host_error: Option<&str>,
    host: &mut impl Host,
) {
    let rewritten = report.rewritten.join(MAX_LIST);
    let left_to_pods = report.left_to_pods.join(MAX_LIST);
    let from_annotation = report.from_annotation.join(MAX_LIST);
    let failed_over = report.failed_over.join(MAX_LIST);
    let not_mirrored = report.kept.join(MAX_LIST);
    let pull_secret = report.secret().unwrap_or_default();
    let host_error = cut(host_error.unwrap_or_default(), MAX_HOST_ERROR);
    let is_empty = [&rewritten, &left_to_pods, &not_mirrored].map(String::is_empty);
    let (level, message) = match is_empty {
        _ if report.is_rejection() => (Level::Warning, "rejected"),
        [_, _, true] if !from_annotation.is_empty() => (Level::Warning, "annotated copies used"),
        [_, _, true] if !failed_over.is_empty() => (Level::Warning, "originals used"),
        [true, true, true] if pull_secret.is_empty() => return,
        [true, true, true] => (Level::Info, "pull Secret changed"),
        [false, _, true] => (Level::Info, "images rewritten"),
        [true, false, true] => (Level::Info, "images rewritten in the Pods only"),
        [true, _, false] => (Level::Warning, "images not rewritten"),
        [false, _, false] => (Level::Warning, "some images not rewritten"),
    };
    send(
        host,
        &Event {
            rewritten: &rewritten,
            left_to_pods: &left_to_pods,
            from_annotation: &from_annotation,
            failed_over: &failed_over,
            pull_secret,
            not_mirrored: &not_mirrored,
            host_error: &host_error,
            ..event(level, message, request)
        },
    );
}

/// Logs that an object has no Pod template in the expected field.
pub fn unknown_shape(request: &Request<'_>, host: &mut impl Host) {
    let message = "no Pod template found, object accepted unchanged";
    send(host, &event(Level::Debug, message, request));
}

fn event<'a>(level: Level, message: &'a str, request: &'a Request<'_>) -> Event<'a> {
    Event {
        level,
        message,
        policy: "image-mirror",
        uid: &request.uid,
        kind: &request.kind.kind,
        namespace: request.namespace.as_deref().unwrap_or_default(),
        name: request.name.as_deref().unwrap_or_default(),
        dry_run: request.dry_run == Some(true),
        rewritten: "",
        left_to_pods: "",
        from_annotation: "",
        failed_over: "",
        pull_secret: "",
        not_mirrored: "",
        host_error: "",
    }
}

fn send(host: &mut impl Host, event: &Event<'_>) {
    if let Ok(event) = serde_json::to_vec(event) {
        host.log(&event);
    }
}
