//! Kubernetes manifests: the images of objects in files, folders and streams.
//!
//! - `files`: files of a folder, and standard input;
//! - `document`: one document with its place;
//! - `documents`: cuts a stream into documents, in bounded memory;
//! - `yaml_documents`, `json_documents`: the same for each format;
//! - `objects`: workloads, Pod templates in custom kinds, and namespaces in an object;
//! - `image_fields`: documented fields that hold images and are no containers.

mod document;
mod documents;
mod files;
mod image_fields;
mod json_documents;
mod objects;
mod yaml_documents;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use document::Document;
pub use document::Problem;
pub use image_fields::ImageField;
pub use objects::{Found, ObjectName};

/// Documents that wait for a parser. Each has at most [`document::MAX_DOCUMENT`] bytes.
const WAITING: usize = 32;

/// Parsers beside each other. More would wait for the reader.
const MAX_PARSERS: usize = 8;

/// Receives what is found, in any order.
pub trait Sink: Send {
    fn found(&mut self, found: Found);
    fn problem(&mut self, problem: Problem);
}

/// Reads all files, and the files in folders; `-` is standard input. Objects without a namespace are in `namespace`. Documents are
/// parsed concurrently, and memory does not depend on the size of the files.
pub fn read(paths: &[PathBuf], namespace: &str, sink: &mut impl Sink) {
    let parsers = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let (documents, waiting) = sync_channel(WAITING);
    let (waiting, sink) = (Mutex::new(waiting), Mutex::new(sink));
    thread::scope(|scope| {
        for _ in 0..parsers.min(MAX_PARSERS) {
            scope.spawn(|| parse_all(&waiting, namespace, &sink));
        }
        let problems = send_all(paths, &documents);
        drop(documents);
        let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
        for problem in problems {
            sink.problem(problem);
        }
    });
}

fn send_all(paths: &[PathBuf], documents: &SyncSender<Document>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for path in paths {
        files::read(
            path,
            &mut |document| documents.send(document).is_ok(),
            &mut |problem| problems.push(problem),
        );
    }
    problems
}

fn parse_all<S: Sink>(waiting: &Mutex<Receiver<Document>>, namespace: &str, sink: &Mutex<&mut S>) {
    loop {
        let next = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok(document) = next else { return };
        let mut found = Vec::new();
        let parsed = document
            .parse()
            .map(|value| objects::read(value, namespace, &mut |one| found.push(one)));
        let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
        for one in found {
            sink.found(one);
        }
        if let Err(problem) = parsed {
            sink.problem(problem);
        }
    }
}
