//! Which images are filled in by something else.

use mirror_contract::placeholder::{is_placeholder, requests_injection};
use rstest::rstest;

#[rstest]
#[case::istio("auto", true, true)]
#[case::nobody_injects("auto", false, false)]
#[case::a_tag("nginx:auto", true, false)]
#[case::written_in_full("docker.io/library/auto", true, false)]
#[case::openshift(" ", false, true)]
#[case::blank("\t ", true, true)]
#[case::image_with_a_space(" nginx", false, false)]
#[case::image("nginx", true, false)]
fn placeholders(#[case] image: &str, #[case] is_injected: bool, #[case] expected: bool) {
    assert_eq!(is_placeholder(image, is_injected), expected);
}

#[rstest]
#[case::label("sidecar.istio.io/inject", "true", true)]
#[case::opted_out("sidecar.istio.io/inject", "false", false)]
#[case::templates("inject.istio.io/templates", "gateway", true)]
#[case::status("sidecar.istio.io/status", "{}", false)]
#[case::another("inject.istio.io", "true", false)]
fn marks(#[case] key: &str, #[case] value: &str, #[case] expected: bool) {
    assert_eq!(requests_injection(key, value), expected);
}
