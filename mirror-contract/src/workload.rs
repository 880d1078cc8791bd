//! The fields of a workload that hold images, and the annotations and labels of image-mirror.

/// Annotation of a Pod template, written by the policy: the originals of its copies, as a JSON object from copy to original.
pub const ORIGINAL_IMAGES: &str = "image-mirror.dev/original-images";

/// Returns the start of an image that ends with a digest of SHA-256, SHA-384 or SHA-512; `None` without such a digest.
#[must_use]
pub fn without_digest(image: &str) -> Option<&str> {
    [64, 96, 128].iter().find_map(|hex| {
        let at = image.len().checked_sub("@sha256:".len() + hex)?;
        let (start, digest) = image.split_at_checked(at)?;
        digest.starts_with('@').then_some(start)
    })
}

/// Returns the original of `copy` in an entry of [`ORIGINAL_IMAGES`] for a Pod that uses `image` instead of the copy. `image`
/// is the original with the digest of the copy, which belongs to the original only if `copy` has one too. `None` if `image` has
/// no digest.
#[must_use]
pub fn replaced_original<'i>(image: &'i str, copy: &str) -> Option<&'i str> {
    let original = without_digest(image)?;
    Some(if without_digest(copy).is_some() {
        image
    } else {
        original
    })
}

/// Annotation or label of a workload or its Pod template: with the value `true`, the workload is not rewritten.
pub const SKIP: &str = "image-mirror.dev/skip";

/// Annotation of a workload: the time of the last readmission by the sidecar.
pub const READMITTED: &str = "image-mirror.dev/readmitted";

/// Label of the Leases of all replicas of one sidecar, besides `app.kubernetes.io/name`.
pub const GROUP: &str = "image-mirror.dev/group";

/// Annotation of the mirror Pod of a static Pod, which cannot be changed (Kubernetes, `ConfigMirrorAnnotationKey`).
pub const STATIC_POD: &str = "kubernetes.io/config.mirror";

/// The pull policy of images that must be present on the node, which are therefore not mirrored.
pub const PULL_NEVER: &str = "Never";

/// A list in a Pod's spec whose entries name images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageList {
    /// `containers`
    Containers,
    /// `initContainers`
    InitContainers,
    /// `ephemeralContainers`
    EphemeralContainers,
    /// `volumes`, whose entries name an image in their object `image` (Kubernetes 1.31).
    Volumes,
}

impl ImageList {
    /// All lists, in the order of the variants.
    pub const ALL: [Self; 4] = [
        Self::Containers,
        Self::InitContainers,
        Self::EphemeralContainers,
        Self::Volumes,
    ];

    /// Returns the list with this key in a Pod's spec.
    #[must_use]
    pub fn of(key: &str) -> Option<Self> {
        match key {
            "containers" => Some(Self::Containers),
            "initContainers" => Some(Self::InitContainers),
            "ephemeralContainers" => Some(Self::EphemeralContainers),
            "volumes" => Some(Self::Volumes),
            _ => None,
        }
    }

    /// Returns the key of the list in a Pod's spec.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Containers => "containers",
            Self::InitContainers => "initContainers",
            Self::EphemeralContainers => "ephemeralContainers",
            Self::Volumes => "volumes",
        }
    }

    /// Returns the key of the image, in an entry or in the object `image` of a volume.
    #[must_use]
    pub const fn image_key(self) -> &'static str {
        match self {
            Self::Volumes => "reference",
            _ => "image",
        }
    }

    /// Returns the key of the pull policy, in the same object as the image.
    #[must_use]
    pub const fn pull_policy_key(self) -> &'static str {
        match self {
            Self::Volumes => "pullPolicy",
            _ => "imagePullPolicy",
        }
    }
}

/// Returns the keys that lead from an object to its Pod template, none for a Pod. Custom kinds are assumed to have it in the
/// same field as a Deployment.
#[must_use]
pub fn pod_template_path(group: &str, kind: &str) -> &'static [&'static str] {
    match (group, kind) {
        ("", "Pod") => &[],
        ("", "PodTemplate") => &["template"],
        ("batch", "CronJob") => &["spec", "jobTemplate", "spec", "template"],
        _ => &["spec", "template"],
    }
}
