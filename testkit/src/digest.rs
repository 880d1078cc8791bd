//! Content digests in the form `sha256:<hex>` (OCI image specification, descriptor.md).

use sha2::{Digest as _, Sha256};

/// The digest of some bytes.
#[must_use]
pub fn of(bytes: &[u8]) -> String {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher.finish()
}

/// Computes a digest piece by piece.
#[derive(Default)]
pub struct Hasher {
    state: Sha256,
    length: u64,
}

impl Hasher {
    /// Adds the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// How many bytes went in so far.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The digest of everything that went in.
    #[must_use]
    pub fn finish(self) -> String {
        use std::fmt::Write as _;
        self.state
            .finalize()
            .iter()
            .fold(String::from("sha256:"), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn matches_the_well_known_digest_of_an_empty_json_object() {
        assert_eq!(
            super::of(b"{}"),
            "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        );
    }
}
