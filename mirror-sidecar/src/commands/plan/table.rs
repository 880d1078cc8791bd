//! The plan as a table, with colours if standard output is a terminal.

use std::fmt::Write as _;
use std::time::Duration;

use console::{measure_text_width, style};

use super::report::{Image, Plan, Status, User};
use crate::output::escape::escape;
use crate::output::{count, human_bytes};

/// Users that a line names.
const USERS: usize = 1;

const HEADINGS: [&str; 7] = [
    "IMAGE",
    "STATUS",
    "BACKUP OR TARGET",
    "BYTES",
    "PLATFORMS",
    "RULE",
    "USED BY",
];

pub(super) fn text(plan: &Plan) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(plan, &mut out);
    out
}

fn write(plan: &Plan, out: &mut String) -> std::fmt::Result {
    let rows: Vec<[String; 7]> = plan.images.iter().map(row).collect();
    let widths = widths(&rows);
    if rows.is_empty() {
        writeln!(out, "No images found.")?;
    } else {
        let heading = line(&HEADINGS.map(str::to_owned), &widths);
        writeln!(out, "{}", style(heading).bold())?;
    }
    for (image, row) in plan.images.iter().zip(&rows) {
        writeln!(out, "{}", coloured(&line(row, &widths), image.status))?;
    }
    let mut unprotected = plan
        .images
        .iter()
        .filter(|image| image.reason.is_some())
        .peekable();
    if unprotected.peek().is_some() {
        writeln!(out, "\nNot protected:")?;
    }
    for image in unprotected {
        let reason = image.reason.as_deref().unwrap_or_default();
        writeln!(
            out,
            "  {}: {}{}",
            escape(&image.image),
            escape(reason),
            deciding(image)
        )?;
    }
    if !plan.fields.is_empty() {
        writeln!(
            out,
            "\nNot rewritten by the policy, because these fields are no containers:"
        )?;
    }
    for field in &plan.fields {
        let (image, name, object) = (&field.image, &field.field, user(&field.object));
        writeln!(out, "  {}: {} of {object}", escape(image), escape(name))?;
    }
    for warning in &plan.warnings {
        writeln!(out, "\n{}: {}", style("warning").yellow(), escape(warning))?;
    }
    writeln!(out)?;
    for line in summary(plan) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn deciding(image: &Image) -> String {
    if image.rule.is_empty() {
        return String::new();
    }
    format!(" ({})", escape(&image.rule))
}

fn row(image: &Image) -> [String; 7] {
    let place = match (&image.backup, &image.target) {
        (Some(backup), Some(target)) => format!("{backup}: {target}"),
        (Some(backup), None) => backup.clone(),
        (None, Some(target)) => target.clone(),
        (None, None) => "-".to_owned(),
    };
    let bytes = match image.status {
        Status::WouldCopy | Status::WouldReplace => human_bytes(image.bytes),
        _ => "-".to_owned(),
    };
    let platforms = if image.platforms.is_empty() {
        "-".to_owned()
    } else {
        image.platforms.join(",")
    };
    [
        image.image.clone(),
        image.status.words().to_owned(),
        place,
        bytes,
        platforms,
        image.rule.clone(),
        users(image, USERS),
    ]
    .map(|cell| escape(&cell).into_owned())
}

/// Returns the first users, and how many others there are.
pub(super) fn users(image: &Image, shown: usize) -> String {
    let named: Vec<_> = image.users.iter().take(shown).map(user).collect();
    let rest = image.user_count.saturating_sub(named.len() as u64);
    match (named.is_empty(), rest) {
        (true, _) => "-".to_owned(),
        (false, 0) => named.join(", "),
        (false, rest) => format!("{} +{rest}", named.join(", ")),
    }
}

pub(super) fn user(user: &User) -> String {
    let text = format!("{} {}/{}", user.kind, user.namespace, user.name);
    escape(&text).into_owned()
}

fn widths(rows: &[[String; 7]]) -> [usize; 7] {
    let mut widths = HEADINGS.map(measure_text_width);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(measure_text_width(cell));
        }
    }
    widths
}

fn line(cells: &[String; 7], widths: &[usize; 7]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        let padding = width.saturating_sub(measure_text_width(cell)) + 2;
        line.push_str(cell);
        line.extend(std::iter::repeat_n(' ', padding));
    }
    line.truncate(line.trim_end().len());
    line
}

fn coloured(line: &str, status: Status) -> String {
    let line = style(line);
    let line = match status {
        Status::Present | Status::InTarget => line.green(),
        Status::WouldCopy | Status::WouldReplace => line.cyan(),
        Status::NotProtected => line.red(),
        Status::Unknown => line.yellow(),
    };
    line.to_string()
}

/// Returns the totals and the estimate, a sentence each.
pub(super) fn summary(plan: &Plan) -> Vec<String> {
    let totals = &plan.totals;
    let mut parts = vec![count(totals.images, "image")];
    for (number, words) in [
        (totals.present, "in the backup"),
        (totals.would_copy, "to copy"),
        (totals.in_target, "in targets"),
        (totals.unknown, "unknown"),
    ] {
        if number > 0 {
            parts.push(format!("{number} {words}"));
        }
    }
    if totals.not_protected > 0 {
        let excluded = match totals.excluded {
            0 => String::new(),
            excluded => format!(" ({excluded} excluded)"),
        };
        parts.push(format!("{} not protected{excluded}", totals.not_protected));
    }
    let mut lines = vec![format!("{}.", parts.join(", "))];
    if totals.left_out > 0 {
        lines.push(format!("{} not listed.", count(totals.left_out, "use")));
    }
    if totals.would_copy > 0 {
        lines.push(format!(
            "{} to copy; layers that images share count once.",
            human_bytes(totals.bytes)
        ));
    }
    if totals.docker_hub_reads > 0 {
        lines.push(format!(
            "{} of Docker Hub count against its pull limit when they are copied; this plan has read as many.",
            count(totals.docker_hub_reads, "manifest"),
        ));
    }
    if let Some(estimate) = &plan.estimate {
        let time = duration(estimate.seconds);
        lines.push(format!("Estimated time: {time} ({}).", estimate.basis));
    }
    lines
}

/// Formats a duration in its two largest units: `1h 5m`.
fn duration(seconds: u64) -> String {
    let seconds = Duration::from_secs(seconds).as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (hours, minutes) => format!("{hours}h {minutes}m"),
    }
}
