//! Files of a command line: a file, all manifests in a folder, or standard input.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::Path;
use std::sync::Arc;

use super::document::{Document, Place, Problem};
use super::documents;

/// The file name for standard input.
const STANDARD_INPUT: &str = "-";

/// Extensions of files in folders that are read.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

/// Nesting of folders that is followed.
const MAX_DEPTH: usize = 32;

/// Bytes that are read at a time.
const BUFFER: usize = 64 * 1024;

/// Reads a file, or the files in a folder and in the folders below it, in the order of their names. Links to folders are not
/// followed.
pub(super) fn read(
    path: &Path,
    send: &mut dyn FnMut(Document) -> bool,
    problem: &mut dyn FnMut(Problem),
) {
    if path == Path::new(STANDARD_INPUT) {
        let input = BufReader::with_capacity(BUFFER, io::stdin().lock());
        let name = Arc::from("standard input");
        report(&name, documents::split(&name, input, send), problem);
    } else if path.is_dir() {
        read_folder(path, 0, send, problem);
    } else {
        read_file(path, send, problem);
    }
}

fn read_file(
    path: &Path,
    send: &mut dyn FnMut(Document) -> bool,
    problem: &mut dyn FnMut(Problem),
) {
    let name = Arc::from(path.to_string_lossy());
    let read = File::open(path).and_then(|file| {
        let input = BufReader::with_capacity(BUFFER, file);
        documents::split(&name, input, send)
    });
    report(&name, read, problem);
}

fn read_folder(
    path: &Path,
    depth: usize,
    send: &mut dyn FnMut(Document) -> bool,
    problem: &mut dyn FnMut(Problem),
) {
    let name = Arc::from(path.to_string_lossy());
    if depth > MAX_DEPTH {
        let reason = format!("folders are nested deeper than {MAX_DEPTH}");
        report(&name, Err(io::Error::other(reason)), problem);
        return;
    }
    let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = match entries {
        Ok(entries) => entries,
        Err(error) => return report(&name, Err(error), problem),
    };
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let is_hidden = name.to_string_lossy().starts_with('.');
        match entry.file_type() {
            _ if is_hidden => {}
            Ok(kind) if kind.is_dir() => read_folder(&path, depth + 1, send, problem),
            Ok(_) if is_manifest(&path) && !path.is_dir() => read_file(&path, send, problem),
            _ => {}
        }
    }
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|it| it.to_str());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
}

fn report(file: &Arc<str>, read: io::Result<()>, problem: &mut dyn FnMut(Problem)) {
    if let Err(error) = read {
        let place = Place {
            file: Arc::clone(file),
            document: 0,
            line: 0,
        };
        let reason = format!("cannot be read: {error}");
        problem(Problem { place, reason });
    }
}
