//! The limit: `curl` reads each blob from one registry and pipes it into another `curl` that writes it to the other.
//!
//! No copier can beat this on large blobs: there is nothing but one GET, one POST and one PUT with `Content-Length`, and
//! nothing is verified. Several processes for each blob are in it, which is what small blobs mostly measure. It speaks
//! HTTP/1.1 over TLS too: the flow control of HTTP/2 would hold large blobs back.

use crate::launch::Program;
use crate::task::Task;

/// How many blobs are under way.
const PARALLEL: usize = 32;

/// Moves one blob: `move.sh SOURCE TARGET SOURCE_REPOSITORY TARGET_REPOSITORY DIGEST SIZE`, the first two being URLs.
const SCRIPT: &str = r#"set -euo pipefail
location=$(curl -sSf --http1.1 -o /dev/null -D - -X POST -H 'Content-Length: 0' "$2/v2/$4/blobs/uploads/" |
  sed -n 's/\r$//; s/^[Ll]ocation: //p')
curl -sSf --http1.1 "$1/v2/$3/blobs/$5" |
  curl -sSf --http1.1 -o /dev/null -X PUT -T - -H 'Transfer-Encoding:' -H 'Expect:' -H "Content-Length: $6" \
    -H 'Content-Type: application/octet-stream' "$2$location&digest=$5"
"#;

/// The program that moves all blobs of a task.
pub fn program(task: &Task) -> Program {
    let scheme = if task.ca.is_some() { "https" } else { "http" };
    let mut arguments = vec!["-c".to_owned(), all(task.blobs.len()), SCRIPT.to_owned()];
    arguments.extend([&task.source, &task.target].map(|host| format!("{scheme}://{host}")));
    for blob in &task.blobs {
        arguments.extend([
            blob.source_repository.clone(),
            blob.target_repository.clone(),
            blob.digest.clone(),
            blob.size.to_string(),
        ]);
    }
    Program {
        path: "/bin/bash".into(),
        arguments,
    }
}

/// A single blob needs no helper; more go through xargs. The script is `$0`, then come the two URLs and the blobs.
fn all(blobs: usize) -> String {
    if blobs == 1 {
        return r#"exec bash -c "$0" move "$@""#.to_owned();
    }
    format!(r#"printf '%s\n' "${{@:3}}" | xargs -P {PARALLEL} -n 4 bash -c "$0" move "$1" "$2""#)
}
