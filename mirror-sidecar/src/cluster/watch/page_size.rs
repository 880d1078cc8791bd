//! The number of objects to request in a page of a list.

/// Target size of a page in bytes. The API server builds a page as a whole.
const TARGET: u64 = 2 * 1024 * 1024;

/// Bytes after which a page is abandoned and requested again with fewer objects.
pub(super) const MAX_BYTES: u64 = 4 * TARGET;

/// Objects in the first page: each may have 1.5 MiB, and more as JSON.
const FIRST: u32 = 8;

/// Most objects in a page, as in client-go.
const MOST: u32 = 500;

/// The number of objects to request next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageSize(u32);

impl PageSize {
    pub(super) fn first() -> Self {
        Self(FIRST)
    }

    pub(super) fn limit(self) -> u32 {
        self.0
    }

    /// Returns the size of the next page after reading `objects` with `bytes`, to the end of a page or not: as many as fit
    /// the target, but at most twice as many as before.
    pub(super) fn after(self, objects: u32, bytes: u64) -> Self {
        let each = bytes.div_ceil(u64::from(objects.max(1))).max(1);
        let fitting = u32::try_from(TARGET / each).unwrap_or(MOST);
        Self(fitting.min(self.0.saturating_mul(2)).clamp(1, MOST))
    }

    /// Returns whether to abandon a page after this many bytes.
    pub(super) fn is_too_large(self, bytes: u64) -> bool {
        self.0 > 1 && bytes > MAX_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_grow_with_small_objects_and_shrink_with_large_ones() {
        let mut size = PageSize::first();
        let mut limits = Vec::new();
        for _ in 0..8 {
            limits.push(size.limit());
            size = size.after(size.limit(), u64::from(size.limit()) * 5_000);
        }
        assert_eq!(limits, [8, 16, 32, 64, 128, 256, 419, 419]);
        assert!(size.is_too_large(MAX_BYTES + 1));
        // Six objects came before it was abandoned.
        let size = size.after(6, MAX_BYTES + 1);
        assert_eq!(size.limit(), 1);
        assert!(!size.is_too_large(u64::MAX), "fewer cannot be requested");
        assert_eq!(size.after(1, 5_000).limit(), 2);
        assert_eq!(size.after(0, 0).limit(), 2, "an empty page");
    }
}
