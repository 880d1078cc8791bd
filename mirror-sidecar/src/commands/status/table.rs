//! The status as text. Everything that comes from the cluster is escaped.

use std::fmt::Write as _;

use super::report::Report;
use crate::output::escape::escape;
use crate::output::{count, human_bytes};
use crate::status::model::{
    BackupStatus, ImageStatus, Overview, Progress, State, Totals, Upstream, Users,
};

/// Width of the bar of a running copy.
const BAR: usize = 20;

/// Longest cell of a column besides the last one.
const MAX_CELL: usize = 80;

/// Returns the summary, the images that need attention, and the running copies.
pub(super) fn summary_with_attention(report: &Report) -> String {
    let mut text = summary(&report.overview);
    let items = report.items.iter();
    let (copying, attention): (Vec<_>, Vec<_>) =
        items.partition(|item| item.state == State::Copying);
    if !attention.is_empty() {
        let rows = attention.iter().map(|item| {
            vec![
                item.state.to_string(),
                item.original.clone(),
                users(&item.users),
                reason(item),
            ]
        });
        let _ = write!(
            text,
            "\n{}",
            table(&["STATE", "IMAGE", "USED BY", "REASON"], rows)
        );
    }
    if !copying.is_empty() {
        let rows = copying.iter().map(|item| {
            let progress = item.progress.as_ref();
            vec![
                item.original.clone(),
                progress.map_or_else(|| item.reason.clone(), bar),
            ]
        });
        let _ = write!(text, "\n{}", table(&["COPYING", "PROGRESS"], rows));
    }
    text
}

/// Returns the summary, and all images with all columns.
pub(super) fn wide(report: &Report) -> String {
    let rows = report.items.iter().map(|item| {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        vec![
            item.state.to_string(),
            item.original.clone(),
            or_dash(item.backup.clone()),
            or_dash(item.target.clone()),
            or_dash(item.digest.as_deref().map(short_digest)),
            or_dash(item.bytes.map(human_bytes)),
            item.upstream.as_str().to_owned(),
            or_dash(item.last_check.as_ref().map(time)),
            or_dash(item.rule.as_ref().map(crate::status::model::Rule::describe)),
            users(&item.users),
            reason(item),
        ]
    });
    let names = [
        "STATE",
        "IMAGE",
        "BACKUP",
        "TARGET",
        "DIGEST",
        "SIZE",
        "ORIGINAL",
        "LAST CHECK",
        "RULE",
        "USED BY",
        "REASON",
    ];
    format!("{}\n{}", summary(&report.overview), table(&names, rows))
}

fn summary(overview: &Overview) -> String {
    let Totals {
        missing,
        copying,
        mirrored,
        failed,
        excluded,
        rewritten,
        last_copies,
    } = overview.images;
    let mut text = String::new();
    let unprotected = overview.images.unprotected();
    let _ = match (overview.is_complete, unprotected) {
        (false, _) => writeln!(
            text,
            "Not all images in use are known: mirror-sidecar has not read the whole cluster yet, or runs with --kubernetes=off."
        ),
        (true, 0) => writeln!(text, "Everything in use is protected."),
        (true, number) => {
            let images = count(number as u64, "image");
            writeln!(text, "Not protected: {images}.")
        }
    };
    let _ = writeln!(
        text,
        "Images: {mirrored} mirrored, {copying} copying, {missing} missing, {failed} failed, {excluded} excluded, {rewritten} rewritten."
    );
    if last_copies > 0 {
        let _ = writeln!(
            text,
            "The originals of {last_copies} of the mirrored images are gone: their copies are the last ones."
        );
    }
    for backup in &overview.backups {
        let _ = writeln!(text, "{}", backup_line(backup));
    }
    let queue = overview.queue;
    if queue.waiting + queue.running + queue.backing_off > 0 {
        let _ = writeln!(
            text,
            "Copies: {} running, {} waiting, {} to be retried.",
            queue.running, queue.waiting, queue.backing_off
        );
    }
    for replica in overview
        .replicas
        .iter()
        .filter(|replica| !replica.has_responded)
    {
        let reason = replica.reason.as_deref().unwrap_or("no response");
        let _ = writeln!(
            text,
            "Replica {} did not respond: {}. The reasons for its images are not known.",
            escape(&replica.name),
            escape(reason)
        );
    }
    text
}

fn backup_line(backup: &BackupStatus) -> String {
    let health = match &backup.reason {
        None => "can be used".to_owned(),
        Some(reason) => format!("CANNOT BE USED: {}", escape(reason)),
    };
    format!(
        "Backup {} ({}): {} mirrored, {health}.",
        escape(&backup.name),
        escape(&backup.location),
        backup.images.mirrored
    )
}

/// Returns the reason, with the original if that is news.
fn reason(item: &ImageStatus) -> String {
    let is_said = item.state == State::Mirrored;
    if item.upstream == Upstream::Gone && !is_said {
        return format!("{}; the original is gone", item.reason);
    }
    item.reason.clone()
}

/// Returns the first user, and how many more there are.
fn users(users: &Users) -> String {
    let Some(first) = users.items.first() else {
        return "-".to_owned();
    };
    let first = format!("{} {}/{}", first.kind, first.namespace, first.name);
    match users.total.saturating_sub(1) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

pub(super) fn bar(progress: &Progress) -> String {
    let rate = format!("{}/s", human_bytes(progress.bytes_per_second));
    let done = human_bytes(progress.bytes_done);
    let Some(total) = progress.bytes_total.filter(|total| *total > 0) else {
        return format!("{done}, {rate}");
    };
    let share = u128::from(progress.bytes_done.min(total));
    let filled = share * BAR as u128 / u128::from(total);
    let filled = usize::try_from(filled).unwrap_or(BAR).min(BAR);
    let percent = share * 100 / u128::from(total);
    format!(
        "[{}{}] {percent:>3} % of {}, {rate}",
        "=".repeat(filled),
        " ".repeat(BAR.saturating_sub(filled)),
        human_bytes(total)
    )
}

pub(super) fn short_digest(digest: &str) -> String {
    let (algorithm, hex) = digest.split_once(':').unwrap_or(("", digest));
    format!("{algorithm}:{}", hex.get(..12).unwrap_or(hex))
}

pub(super) fn time(time: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time) -> String {
    time.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Returns rows under their names, in columns. The last column is as long as it is.
fn table(names: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let escaped = rows.map(|row| {
        let cells = row.into_iter();
        cells.map(|cell| escape(&cell).into_owned()).collect()
    });
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let lines: Vec<Vec<String>> = std::iter::once(names).chain(escaped).collect();
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        let widths = cells.map(|cell| console::measure_text_width(cell));
        widths.max().unwrap_or_default().min(MAX_CELL)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let last = line.len().saturating_sub(1);
        for (column, cell) in line.iter().enumerate() {
            text.push_str(cell);
            if column < last {
                let width = widths.get(column).copied().unwrap_or_default();
                let gap = width.saturating_sub(console::measure_text_width(cell));
                text.push_str(&" ".repeat(gap + 2));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::status::model::Queue;
    use crate::status::model::tests::{image, overview};

    /// An image without a copy.
    pub(in crate::commands::status) fn item(
        original: &str,
        state: State,
        reason: &str,
    ) -> ImageStatus {
        ImageStatus {
            original: original.to_owned(),
            state,
            reason: reason.to_owned(),
            digest: None,
            first_seen: None,
            last_check: None,
            last_copy: None,
            upstream: Upstream::Unknown,
            progress: None,
            ..image()
        }
    }

    fn report(items: Vec<ImageStatus>) -> Report {
        let mut images = Totals::default();
        for item in &items {
            *images.of_mut(item.state) += 1;
        }
        let queue = Queue {
            waiting: 2,
            running: 1,
            backing_off: 0,
        };
        Report {
            overview: Overview {
                images,
                queue,
                ..overview()
            },
            items,
            has_all_of_filter: false,
        }
    }

    #[test]
    fn what_needs_attention_comes_with_its_reason() {
        let copying = ImageStatus {
            progress: Some(Progress {
                bytes_done: 5 << 20,
                bytes_total: Some(10 << 20),
                bytes_per_second: 1 << 20,
            }),
            ..item("docker.io/library/b:1", State::Copying, "copying")
        };
        let failed = item(
            "docker.io/library/a:1",
            State::Failed,
            "no such image\u{1b}[2J",
        );
        let text = summary_with_attention(&report(vec![failed, copying]));
        let expected = "\
Not protected: 2 images.
Images: 0 mirrored, 1 copying, 0 missing, 1 failed, 0 excluded, 0 rewritten.
Backup default (hub.test/mirror): 0 mirrored, CANNOT BE USED: broken.
Copies: 1 running, 2 waiting, 0 to be retried.
Replica b did not respond: broken. The reasons for its images are not known.

STATE   IMAGE                  USED BY                         REASON
failed  docker.io/library/a:1  Deployment shop/web and 2 more  no such image\\u{1b}[2J

COPYING                PROGRESS
docker.io/library/b:1  [==========          ]  50 % of 10.0 MiB, 1.0 MiB/s
";
        assert_eq!(text, expected);
    }

    #[test]
    fn every_column_is_in_the_wide_table() {
        let item = ImageStatus {
            digest: Some(format!("sha256:{}", "a".repeat(64))),
            upstream: Upstream::Gone,
            ..item("a.b/c:1", State::Mirrored, "the backup has the last copy")
        };
        let text = wide(&report(vec![item]));
        for part in [
            "sha256:aaaaaaaaaaaa ",
            "3.0 MiB",
            "gone",
            "rules[0] of the policy image-mirror",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
