//! Images that something else fills in before the container starts: the policy and the sidecar leave them alone.
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

/// Returns whether fields of this name can be a mark of [`requests_injection`].
#[must_use]
pub fn is_injection_key(key: &str) -> bool {
    key == INJECT || key.starts_with(INJECT_PREFIX)
}

/// Returns whether this label or annotation of a Pod template makes Istio inject into its Pods.
#[must_use]
pub fn requests_injection(key: &str, value: &str) -> bool {
    is_injection_key(key) && value != "false"
}

/// Returns whether this container is a sidecar of Istio that its author customised; the namespace alone may request injection.
#[must_use]
pub fn is_customised_sidecar(container: &str, image: &str) -> bool {
    container == ISTIO_PROXY && image == AUTO
}

/// Returns whether `image` is a placeholder, in a Pod template that is injected into or is not.
#[must_use]
pub fn is_placeholder(image: &str, is_injected: bool) -> bool {
    (is_injected && image == AUTO) || image.trim_ascii().is_empty()
}
