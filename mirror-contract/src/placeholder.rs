//! Images that are replaced before the container starts, and are therefore not mirrored.
//!
//! - Istio's injector replaces the image `auto` of gateways and of customised sidecars (Istio, "Customizing injection").
//! - The image change triggers of `OpenShift` replace a blank image, by convention `" "` (openshift/origin#14659); the API server
//!   accepts it in Pod templates.

/// The image that Istio's injector replaces.
const AUTO: &str = "auto";
/// The container that Istio's injector knows by its name.
const ISTIO_PROXY: &str = "istio-proxy";
const INJECT: &str = "sidecar.istio.io/inject";
const INJECT_PREFIX: &str = "inject.istio.io/";

/// Returns whether [`requests_injection`] depends on a label or annotation of this name.
#[must_use]
pub fn is_injection_key(key: &str) -> bool {
    key == INJECT || key.starts_with(INJECT_PREFIX)
}

/// Returns whether this label or annotation of a Pod template makes Istio inject into its Pods.
#[must_use]
pub fn requests_injection(key: &str, value: &str) -> bool {
    is_injection_key(key) && value != "false"
}

/// Returns whether this container is a customised sidecar of Istio. Its Pod is injected even if only the namespace requests it.
#[must_use]
pub fn is_customised_sidecar(container: &str, image: &str) -> bool {
    container == ISTIO_PROXY && image == AUTO
}

/// Returns whether `image` is a placeholder; `is_injected` says whether Istio injects containers into the Pod.
#[must_use]
pub fn is_placeholder(image: &str, is_injected: bool) -> bool {
    (is_injected && image == AUTO) || image.trim_ascii().is_empty()
}
