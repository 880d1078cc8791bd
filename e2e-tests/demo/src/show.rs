//! What the demo prints.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "printing is what a demo is for"
)]

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use testkit::fixtures;

static STEP: AtomicUsize = AtomicUsize::new(1);

pub fn say(text: &str) {
    println!("{text}");
}

pub fn step(title: &str) {
    println!("\n{}. {title}", STEP.fetch_add(1, Ordering::Relaxed));
}

pub fn bullet(text: &str) {
    println!("   {text}");
}

pub fn fail(reason: &str) {
    eprintln!("\nThe demo failed: {reason}");
}

pub fn yaml_images(object: &Value) {
    for image in fixtures::images_of(object) {
        bullet(&format!("image: {image}"));
    }
}

/// Prints a JSON patch (RFC 6902, base64) as the change that it is; gives the object with the patch applied.
pub fn patch(object: &Value, encoded: &str) -> anyhow::Result<Value> {
    let operations = STANDARD
        .decode(encoded)
        .context("the patch is not base64")?;
    let operations: json_patch::Patch =
        serde_json::from_slice(&operations).context("the patch is not a JSON patch")?;
    let mut mutated = object.clone();
    json_patch::patch(&mut mutated, &operations).context("the patch does not fit the object")?;
    bullet("answer: allowed, with this patch");
    for operation in &*operations {
        let path = operation.path().to_string();
        bullet(&format!("at {path}"));
        if let Some(before) = object.pointer(&path) {
            bullet(&format!("  - {before}"));
        }
        if let Some(after) = mutated.pointer(&path) {
            bullet(&format!("  + {after}"));
        }
    }
    Ok(mutated)
}
