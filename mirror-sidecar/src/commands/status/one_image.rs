//! Everything about one image, in sentences.

use std::fmt::Write as _;

use super::table::{bar, time};
use crate::output::escape::escape;
use crate::output::{count, human_bytes};
use crate::status::model::{ImageList, ImageStatus, State, Upstream};

pub(super) fn text(list: &ImageList) -> String {
    let mut text = String::new();
    for (position, item) in list.items.iter().enumerate() {
        if position > 0 {
            text.push('\n');
        }
        for line in lines(item) {
            text.push_str(&escape(&line));
            text.push('\n');
        }
    }
    for replica in list
        .replicas
        .iter()
        .filter(|replica| !replica.has_responded)
    {
        let reason = replica.reason.as_deref().unwrap_or("no response");
        let _ = writeln!(
            text,
            "Replica {} did not respond: {}. It may know more about this image.",
            escape(&replica.name),
            escape(reason)
        );
    }
    text
}

fn lines(item: &ImageStatus) -> Vec<String> {
    let mut lines = vec![
        item.original.clone(),
        format!("  State: {}: {}.", item.state, item.reason),
    ];
    let mut add = |line: String| lines.push(format!("  {line}"));
    if let Some(progress) = &item.progress {
        add(format!("Progress: {}.", bar(progress)));
    }
    match (&item.backup, &item.target) {
        (Some(backup), Some(target)) if item.state == State::Mirrored => {
            add(format!("Copy: {target} in the backup {backup}."));
        }
        (Some(backup), Some(target)) => {
            add(format!("Its copy will be {target} in the backup {backup}."));
        }
        (None, Some(target)) => add(format!("Workloads use {target} instead.")),
        (_, None) => {}
    }
    if let Some(digest) = &item.digest {
        add(format!("Digest: {digest}."));
    }
    if let Some(bytes) = item.bytes {
        let platforms = match item.platforms.as_slice() {
            [] => String::new(),
            platforms => format!(", {}", platforms.join(", ")),
        };
        add(format!("Size: {}{platforms}.", human_bytes(bytes)));
    }
    match &item.rule {
        Some(rule) => add(format!("Rule: {}.", rule.describe())),
        None if item.state != State::Excluded => {
            add("Rule: none, all images are mirrored by default.".to_owned());
        }
        None => {}
    }
    if item.backup.is_some() {
        add(original(item).to_owned());
    }
    if let Some(at) = &item.last_check {
        add(format!("The copy was last checked at {}.", time(at)));
    }
    if let Some(at) = &item.last_copy {
        add(format!("It was last copied at {}.", time(at)));
    }
    if let Some(at) = &item.first_seen {
        add(format!("It is known to be in use since {}.", time(at)));
    }
    add(format!(
        "Used by {}:",
        count(item.users.total as u64, "workload")
    ));
    for user in &item.users.items {
        lines.push(format!(
            "    {} {}/{}",
            user.kind, user.namespace, user.name
        ));
    }
    let more = item.users.total.saturating_sub(item.users.items.len());
    if more > 0 {
        lines.push(format!("    and {more} more"));
    }
    lines
}

fn original(item: &ImageStatus) -> &'static str {
    let is_mirrored = item.state == State::Mirrored;
    match item.upstream {
        Upstream::Current if is_mirrored => "The original has the digest of the copy.",
        Upstream::Current => "The original is there.",
        Upstream::Moved => "The tag of the original has another digest than the copy.",
        Upstream::Gone => "The original is gone.",
        Upstream::Unknown => "The original was not checked yet, or without a result.",
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::item;
    use super::*;
    use crate::status::model::API_VERSION;

    #[test]
    fn everything_is_told_in_sentences() {
        let list = ImageList {
            api_version: API_VERSION.to_owned(),
            items: vec![item(
                "docker.io/library/a:1",
                State::Failed,
                "no such image",
            )],
            next: None,
            replicas: Vec::new(),
        };
        let expected = "\
docker.io/library/a:1
  State: failed: no such image.
  Its copy will be hub.test/nginx:1 in the backup default.
  Size: 3.0 MiB, linux/amd64.
  Rule: rules[0] of the policy image-mirror.
  The original was not checked yet, or without a result.
  Used by 3 workloads:
    Deployment shop/web
    and 2 more
";
        assert_eq!(text(&list), expected);
    }
}
