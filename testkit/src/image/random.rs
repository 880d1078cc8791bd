//! Pseudo-random bytes that are the same for the same seed on every machine.

use std::io::{self, Read};

/// `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Debug, Clone)]
pub(super) struct Random {
    state: u64,
    buffer: [u8; 8],
    used: usize,
}

impl Random {
    /// A generator for one purpose: different names give independent streams for the same seed.
    pub fn new(seed: u64, name: &str) -> Self {
        let state = name.bytes().fold(seed, |state, byte| {
            (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self {
            state,
            buffer: [0; 8],
            used: 8,
        }
    }

    /// The first `length` bytes.
    pub fn bytes(self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        self.take(length as u64)
            .read_to_end(&mut bytes)
            .expect("the stream has no end and no errors");
        bytes
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Read for Random {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        for chunk in target.chunks_mut(8) {
            // Whole words are the fast path; what is left of a word serves the next read.
            if chunk.len() == 8 && self.used == 8 {
                chunk.copy_from_slice(&self.next().to_le_bytes());
                continue;
            }
            for byte in chunk {
                if self.used == 8 {
                    self.buffer = self.next().to_le_bytes();
                    self.used = 0;
                }
                *byte = self.buffer[self.used];
                self.used += 1;
            }
        }
        Ok(target.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_does_not_depend_on_how_it_is_read() {
        let whole = Random::new(7, "x").bytes(1000);
        let mut random = Random::new(7, "x");
        let mut pieces = Vec::new();
        for size in [3, 8, 1, 64, 5, 919] {
            let mut piece = vec![0; size];
            random.read_exact(&mut piece).unwrap();
            pieces.extend(piece);
        }
        assert_eq!(whole, pieces);
    }

    #[test]
    fn names_and_seeds_give_different_streams() {
        assert_ne!(Random::new(7, "x").bytes(8), Random::new(7, "y").bytes(8));
        assert_ne!(Random::new(7, "x").bytes(8), Random::new(8, "x").bytes(8));
    }
}
