//! The paths of the distribution specification that the facade serves.

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// `/v2/` (distribution specification, end-1).
    Base,
    /// `/v2/<name>/manifests/<reference>` (end-3).
    Manifest { name: &'a str, reference: &'a str },
}

impl<'a> Route<'a> {
    /// Parses a path from its end, since names contain slashes. Queries need no percent-encoding.
    pub(super) fn parse(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix("/v2")?;
        if rest.is_empty() || rest == "/" {
            return Some(Self::Base);
        }
        let (name, reference) = rest.strip_prefix('/')?.rsplit_once("/manifests/")?;
        (!name.is_empty() && !reference.is_empty() && !reference.contains('/'))
            .then_some(Self::Manifest { name, reference })
    }
}

#[cfg(test)]
mod tests {
    use super::Route;
    use rstest::rstest;

    #[rstest]
    #[case("/v2", Some(Route::Base))]
    #[case("/v2/", Some(Route::Base))]
    #[case("/v2/tag/docker.io/library/nginx/manifests/1.27", Some(Route::Manifest { name: "tag/docker.io/library/nginx", reference: "1.27" }))]
    #[case("/v2/tag/ghcr.io/a/manifests/b/manifests/1", Some(Route::Manifest { name: "tag/ghcr.io/a/manifests/b", reference: "1" }))]
    #[case("/", None)]
    #[case("/v2x/a/manifests/1", None)]
    #[case("/v2//manifests/1", None)]
    #[case("/v2/a/manifests/", None)]
    #[case("/v2/a/manifests/b/c", None)]
    #[case("/v2/a/blobs/sha256:aa", None)]
    #[case("/v2/a/tags/list", None)]
    fn paths(#[case] path: &str, #[case] route: Option<Route<'_>>) {
        assert_eq!(Route::parse(path), route);
    }
}
