//! The checks of the fuzz targets, and the test that runs them with the kept corpus.
//!
//! They use private functions of the crate, so they are modules of it, included by `#[path]` under `#[cfg(any(fuzzing,
//! test))]` only. Each passes arbitrary bytes, as the response of a registry, to the functions that parse real responses,
//! and panics if the result violates an invariant. No request is sent.

// A fuzz target and a test report a fault by panicking.
#![allow(clippy::expect_used, clippy::indexing_slicing)]

pub use crate::copy::fuzzing::manifest;
pub use crate::registry::fuzzing::{challenge, lists, location, range};

use oci_spec::image::Digest;

/// A digest becomes part of URLs: the grammar of the OCI image specification (descriptor.md, "Digests") has no character
/// that ends a path segment or starts an escape.
pub(crate) fn check_digest(digest: &Digest) {
    let text = digest.as_ref();
    let (algorithm, encoded) = text.split_once(':').expect("a digest has an algorithm");
    assert!(!algorithm.is_empty() && !encoded.is_empty(), "{text:?}");
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "+._-=".contains(c);
    assert!(
        algorithm.chars().all(is_allowed) && encoded.chars().all(is_allowed),
        "{text:?}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Checks the kept corpus where no fuzzer runs.
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
