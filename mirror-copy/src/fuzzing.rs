//! Entry points for the fuzz targets in `fuzz/`, and for the test below that feeds them the kept corpus. They are
//! built for nothing else.
//!
//! Each takes arbitrary bytes for what a registry said, gives them to the functions that read real answers, and panics
//! when what these make of it is not as it must be. Nothing is sent anywhere.

// A fuzz target and a test report a fault by panicking.
#![allow(clippy::expect_used, clippy::indexing_slicing)]

pub use crate::copy::fuzzing::manifest;
pub use crate::registry::fuzzing::{challenge, lists, location, range};

use oci_spec::image::Digest;

/// A digest becomes part of addresses, so it must stay where it is put: the grammar of the OCI image specification
/// (descriptor.md, "Digests") has no character that ends a path's segment or begins an escape.
pub(crate) fn check_digest(digest: &Digest) {
    let text = digest.as_ref();
    let (algorithm, encoded) = text.split_once(':').expect("a digest has an algorithm");
    assert!(!algorithm.is_empty() && !encoded.is_empty(), "{text:?}");
    let stays = |c: char| c.is_ascii_alphanumeric() || "+._-=".contains(c);
    assert!(
        algorithm.chars().all(stays) && encoded.chars().all(stays),
        "{text:?}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// What was found to matter once must not be forgotten where no fuzzer runs.
    #[rstest::rstest]
    #[case("challenge", challenge)]
    #[case("lists", lists)]
    #[case("location", location)]
    #[case("manifest", manifest)]
    #[case("range", range)]
    fn the_kept_corpus_passes(#[case] target: &str, #[case] feed: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target);
        let mut samples = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let sample = std::fs::read(&path).unwrap();
            let fed = std::panic::catch_unwind(|| feed(&sample));
            assert!(fed.is_ok(), "{}", path.display());
            samples += 1;
        }
        assert!(samples >= 5, "{samples} samples of {target}");
    }
}
