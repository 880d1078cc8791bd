//! Image references on the command line.

use mirror_contract::ImageRef;

/// Transports of skopeo, podman and oras for local storage.
const LOCAL_TRANSPORTS: [&str; 9] = [
    "containers-storage",
    "dir",
    "docker-archive",
    "docker-daemon",
    "oci",
    "oci-archive",
    "oci-layout",
    "ostree",
    "sif",
];

/// Parses an image reference. The error does not contain the text.
///
/// `docker://` and the transports of skopeo are rejected: `oci:folder` would otherwise be the tag `folder` of
/// `docker.io/library/oci`.
pub fn parse_image(text: &str) -> Result<ImageRef<'static>, String> {
    check_transport(text)?;
    text.parse::<ImageRef<'static>>()
        .map_err(|error| error.to_string())
}

/// Rejects transports of other tools, and URLs.
pub fn check_transport(text: &str) -> Result<(), String> {
    if let Some((scheme @ ("docker" | "http" | "https" | "oci"), rest)) = text.split_once("://") {
        return Err(format!(
            "image references do not start with {scheme}://; use {rest}"
        ));
    }
    match text.split_once(':') {
        Some((transport, _)) if LOCAL_TRANSPORTS.contains(&transport) => Err(format!(
            "{transport}: is a transport of skopeo for local storage, and only registries are supported; an image of \
             this name on Docker Hub is docker.io/library/{text}"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("nginx:1.27", None)]
    #[case("ghcr.io/acme/oci:v1", None)]
    #[case("docker.io/library/oci:v1", None)]
    #[case("oci", None)]
    #[case("localhost:5000/dir:v1", None)]
    #[case("docker://nginx:1.27", Some("use nginx:1.27"))]
    #[case("oci://ghcr.io/acme/chart:v1", Some("use ghcr.io/acme/chart:v1"))]
    #[case("https://ghcr.io/acme/app", Some("use ghcr.io/acme/app"))]
    #[case("oci:folder", Some("docker.io/library/oci:folder"))]
    #[case("oci:/srv/images:v1", Some("only registries are supported"))]
    #[case("docker-archive:image.tar", Some("docker-archive: is a transport"))]
    #[case("UPPER", Some("lower"))]
    fn prefixes_of_other_tools_are_refused(#[case] text: &str, #[case] words: Option<&str>) {
        match (parse_image(text), words) {
            (Ok(_), None) => {}
            (Err(reason), Some(words)) if reason.contains(words) => {}
            (result, _) => panic!("{result:?}"),
        }
    }
}
