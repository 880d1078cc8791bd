//! Layers: tar archives in gzip, with nothing in them that depends on time or place.

use std::io::{self, Cursor, Read, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzEncoder as GzReader;
use flate2::write::GzEncoder as GzWriter;
use tar::{Builder, EntryType, Header};

use super::random::Random;
use crate::digest::Hasher;

/// Bytes of a tar record; archives are padded to it.
const TAR_BLOCK: u64 = 512;

/// A compressed layer, and the digest of the archive in it (`diff_id` of the image specification).
pub(super) struct Layer {
    pub gzip: Vec<u8>,
    pub diff_id: String,
}

/// A layer of some files (path and content).
pub(super) fn layer(files: &[(&str, Vec<u8>)]) -> Layer {
    let mut archive = Builder::new(Vec::new());
    for (path, content) in files {
        archive
            .append(&header(path, content.len() as u64), content.as_slice())
            .expect("writing to memory works");
    }
    let tar = archive.into_inner().expect("writing to memory works");
    let mut gzip = GzWriter::new(Vec::new(), Compression::fast());
    gzip.write_all(&tar).expect("writing to memory works");
    Layer {
        gzip: gzip.finish().expect("writing to memory works"),
        diff_id: crate::digest::of(&tar),
    }
}

/// A layer with one file of pseudo-random bytes: a genuine gzip, but stored, so that its size is what was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct BigLayer {
    pub seed: u64,
    /// Length of the file in the archive, in bytes.
    pub length: u64,
}

impl BigLayer {
    /// The uncompressed archive.
    fn tar(self) -> impl Read {
        let padding = self.length.next_multiple_of(TAR_BLOCK) - self.length;
        let header = header("data/big.bin", self.length);
        Cursor::new(header.as_bytes().to_vec())
            .chain(Random::new(self.seed, "big layer").take(self.length))
            // The end of an archive is two empty records.
            .chain(io::repeat(0).take(padding + 2 * TAR_BLOCK))
    }

    /// The compressed layer.
    pub fn reader(self) -> impl Read {
        GzReader::new(self.tar(), Compression::none())
    }

    /// The compressed layer in pieces of this many bytes.
    pub fn chunks(self, size: usize) -> impl Iterator<Item = io::Result<Bytes>> {
        let mut reader = self.reader();
        std::iter::from_fn(move || {
            let mut chunk = Vec::with_capacity(size);
            let read = reader.by_ref().take(size as u64).read_to_end(&mut chunk);
            match read {
                Ok(0) => None,
                Ok(_) => Some(Ok(chunk.into())),
                Err(error) => Some(Err(error)),
            }
        })
    }

    /// Digest and size of the compressed layer.
    pub fn measure(self) -> (String, u64) {
        let hasher = hash(self.reader());
        let size = hasher.length();
        (hasher.finish(), size)
    }

    pub fn diff_id(self) -> String {
        hash(self.tar()).finish()
    }
}

fn hash(mut reader: impl Read) -> Hasher {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer).expect("reading from memory works") {
            0 => return hasher,
            read => hasher.update(&buffer[..read]),
        }
    }
}

fn header(path: &str, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_path(path).expect("the path is short");
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_cksum();
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;

    #[test]
    fn a_big_layer_is_a_genuine_archive() {
        let big = BigLayer {
            seed: 3,
            length: 70_001,
        };
        let gzip: Vec<u8> = big.chunks(1000).flat_map(Result::unwrap).collect();
        assert_eq!(big.measure(), (crate::digest::of(&gzip), gzip.len() as u64));
        let mut archive = tar::Archive::new(GzDecoder::new(gzip.as_slice()));
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str(), Some("data/big.bin"));
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        assert_eq!(content, Random::new(3, "big layer").bytes(70_001));
    }

    #[test]
    fn a_layer_is_the_same_every_time() {
        let files = [("a/b", vec![1; 100])];
        assert_eq!(layer(&files).gzip, layer(&files).gzip);
    }
}
