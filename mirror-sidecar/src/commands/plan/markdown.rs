//! The plan in Markdown, for a pull request or a wiki.

use std::fmt::Write as _;

use super::report::{Plan, Status};
use super::table::{summary, user, users};
use crate::output::escape::escape;
use crate::output::human_bytes;

/// Users that a row names.
const USERS: usize = 3;

pub(super) fn text(plan: &Plan) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(plan, &mut out);
    out
}

fn write(plan: &Plan, out: &mut String) -> std::fmt::Result {
    writeln!(out, "{}\n", summary(plan).join(" "))?;
    if !plan.images.is_empty() {
        writeln!(
            out,
            "| image | status | backup or target | bytes | platforms | rule | used by |"
        )?;
        writeln!(out, "|---|---|---|---:|---|---|---|")?;
    }
    for image in &plan.images {
        let status = match (&image.reason, image.status) {
            (Some(reason), _) => format!("**{}**: {}", image.status.words(), cell(reason)),
            (None, status) => status.words().to_owned(),
        };
        let target = image.target.as_deref().map(code).unwrap_or_default();
        let bytes = match image.status {
            Status::WouldCopy | Status::WouldReplace => human_bytes(image.bytes),
            _ => String::new(),
        };
        writeln!(
            out,
            "| {} | {status} | {target} | {bytes} | {} | {} | {} |",
            code(&image.image),
            cell(&image.platforms.join(", ")),
            cell(&image.rule),
            cell(&users(image, USERS)),
        )?;
    }
    if !plan.fields.is_empty() {
        writeln!(
            out,
            "\nNot rewritten by the policy, because these fields are no containers:\n"
        )?;
        writeln!(out, "| image | field | object |\n|---|---|---|")?;
    }
    for field in &plan.fields {
        let (image, name) = (code(&field.image), code(&field.field));
        writeln!(out, "| {image} | {name} | {} |", cell(&user(&field.object)))?;
    }
    for (title, sentences) in [("Warnings", &plan.warnings), ("Problems", &plan.problems)] {
        if !sentences.is_empty() {
            writeln!(out, "\n{title}:\n")?;
        }
        for sentence in sentences {
            writeln!(out, "- {}", cell(sentence))?;
        }
    }
    Ok(())
}

/// Escapes what Markdown or HTML would interpret.
fn cell(text: &str) -> String {
    let mut cell = String::new();
    for character in escape(text).chars() {
        match character {
            '<' => cell.push_str("&lt;"),
            '&' => cell.push_str("&amp;"),
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '!' | '@' | '#' => {
                cell.push('\\');
                cell.push(character);
            }
            other => cell.push(other),
        }
    }
    cell
}

fn code(text: &str) -> String {
    let text = escape(text).replace('`', "'").replace('|', "\\|");
    format!("`{text}`")
}
