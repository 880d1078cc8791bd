//! Where a workload keeps its images, and the annotations that mean something to both sides.

/// Annotation of a Pod template: the originals of its copies, as a JSON object from copy to original. The policy writes it.
pub const ORIGINAL_IMAGES: &str = "image-mirror.dev/original-images";

/// Annotation or label of a workload or its Pod template: with the value `true` it is left alone.
pub const SKIP: &str = "image-mirror.dev/skip";

/// Annotation of a workload: when the sidecar sent it through admission again.
pub const READMITTED: &str = "image-mirror.dev/readmitted";

/// Label of the Leases of sidecars that share work, besides `app.kubernetes.io/name`.
pub const GROUP: &str = "image-mirror.dev/group";

/// Annotation of the API server's image of a static Pod, which cannot be changed (Kubernetes, `ConfigMirrorAnnotationKey`).
pub const STATIC_POD: &str = "kubernetes.io/config.mirror";

/// The pull policy of images that are expected on the node: a copy in a registry is of no use to them.
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
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Containers,
        Self::InitContainers,
        Self::EphemeralContainers,
        Self::Volumes,
    ];

    /// Returns the list that a Pod's spec has under this key.
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

    /// Returns the key in a Pod's spec.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Containers => "containers",
            Self::InitContainers => "initContainers",
            Self::EphemeralContainers => "ephemeralContainers",
            Self::Volumes => "volumes",
        }
    }

    /// Returns the key of the image: of an entry, or of a volume's object `image`.
    #[must_use]
    pub const fn image_key(self) -> &'static str {
        match self {
            Self::Volumes => "reference",
            _ => "image",
        }
    }

    /// Returns the key of the pull policy, which is beside the image.
    #[must_use]
    pub const fn pull_policy_key(self) -> &'static str {
        match self {
            Self::Volumes => "pullPolicy",
            _ => "imagePullPolicy",
        }
    }
}

/// Returns the keys that lead from an object to its Pod template. A Pod is its own. Kinds that are not built in are taken to
/// have theirs where a Deployment has it.
#[must_use]
pub fn pod_template_path(group: &str, kind: &str) -> &'static [&'static str] {
    match (group, kind) {
        ("", "Pod") => &[],
        ("", "PodTemplate") => &["template"],
        ("batch", "CronJob") => &["spec", "jobTemplate", "spec", "template"],
        _ => &["spec", "template"],
    }
}
