//! How much of the cluster is remembered.
//!
//! Whoever may create workloads chooses how many there are and which images they name: originals or invented copies, by tag
//! or by digest. All spellings count alike, and so does every product of two such numbers.

use mirror_contract::ImageRef;

/// The part of its limit that a namespace has even while the cluster as a whole is beyond three quarters: a few namespaces that
/// use up all they may must not push others out.
const RESERVED: usize = 10;

/// So much is remembered of a namespace, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Objects that name images or the pull Secret.
    pub workloads: usize,
    /// Images of all workloads, counted once for each workload.
    pub uses: usize,
    /// Different images.
    pub images: usize,
    /// Bytes of their references.
    pub bytes: usize,
}

/// The most that is remembered.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub namespace: Amounts,
    /// Of all namespaces together.
    pub cluster: Amounts,
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(Self::DEFAULT_WORKLOADS)
    }
}

impl Limits {
    /// Workloads that are remembered by default. With up to 1 KiB for each they fit into the memory that the chart allows,
    /// beside everything else that a tenant or a registry can fill.
    pub const DEFAULT_WORKLOADS: u32 = 50_000;

    /// The limits for so many workloads in a cluster. By default that is 5,000 workloads with 2,000 different images in a
    /// namespace, and 10,000 images in all: several times what most clusters have.
    #[must_use]
    pub fn of(workloads: u32) -> Self {
        let workloads = workloads as usize;
        let images = workloads / 5;
        Self {
            namespace: Amounts {
                workloads: workloads / 10,
                uses: workloads / 2,
                images: images / 5,
                bytes: images / 5 * 256,
            },
            cluster: Amounts {
                workloads,
                uses: workloads.saturating_mul(6),
                images,
                bytes: images.saturating_mul(200),
            },
        }
    }

    /// Whether there may be so much in a namespace, and so much in all.
    pub(super) fn allow(&self, in_namespace: Amounts, in_all: Amounts) -> bool {
        let fits = |limit: fn(&Amounts) -> usize| {
            let (namespace, all) = (limit(&in_namespace), limit(&in_all));
            let (most, most_of_all) = (limit(&self.namespace), limit(&self.cluster));
            let has_reserve = namespace <= most / RESERVED;
            namespace <= most && all <= most_of_all && (has_reserve || all <= most_of_all / 4 * 3)
        };
        fits(|amounts| amounts.workloads)
            && fits(|amounts| amounts.uses)
            && fits(|amounts| amounts.images)
            && fits(|amounts| amounts.bytes)
    }
}

impl Amounts {
    pub(super) const WORKLOAD: Self = Self {
        workloads: 1,
        uses: 0,
        images: 0,
        bytes: 0,
    };

    /// One more use of an image; it may be the first one.
    pub(super) fn image(image: &ImageRef<'_>, is_first: bool) -> Self {
        Self {
            workloads: 0,
            uses: 1,
            images: usize::from(is_first),
            bytes: if is_first { image.to_string().len() } else { 0 },
        }
    }

    pub(super) fn plus(self, more: Self) -> Self {
        Self {
            workloads: self.workloads.saturating_add(more.workloads),
            uses: self.uses.saturating_add(more.uses),
            images: self.images.saturating_add(more.images),
            bytes: self.bytes.saturating_add(more.bytes),
        }
    }

    pub(super) fn minus(self, less: Self) -> Self {
        Self {
            workloads: self.workloads.saturating_sub(less.workloads),
            uses: self.uses.saturating_sub(less.uses),
            images: self.images.saturating_sub(less.images),
            bytes: self.bytes.saturating_sub(less.bytes),
        }
    }
}
