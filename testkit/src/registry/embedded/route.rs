//! What a path means. Repository names contain slashes, so paths are read from the right.

/// A path below `/v2/`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Base,
    Uploads(&'a str),
    Upload(&'a str, &'a str),
    Blob(&'a str, &'a str),
    Manifest(&'a str, &'a str),
    Tags(&'a str),
    Referrers(&'a str, &'a str),
}

impl<'a> Route<'a> {
    pub fn parse(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix("/v2")?;
        if rest.is_empty() || rest == "/" {
            return Some(Self::Base);
        }
        let rest = rest.strip_prefix('/')?;
        let (head, last) = rest.rsplit_once('/')?;
        let (name, kind) = head.rsplit_once('/')?;
        let route = match (kind, last) {
            ("uploads", id) => {
                let name = name.strip_suffix("/blobs")?;
                if id.is_empty() {
                    Self::Uploads(name)
                } else {
                    Self::Upload(name, id)
                }
            }
            ("blobs", "uploads") => Self::Uploads(name),
            ("blobs", digest) => Self::Blob(name, digest),
            ("manifests", reference) => Self::Manifest(name, reference),
            ("tags", "list") => Self::Tags(name),
            ("referrers", digest) => Self::Referrers(name, digest),
            _ => return None,
        };
        Some(route)
    }
}

#[cfg(test)]
mod tests {
    use super::Route;
    use rstest::rstest;

    #[rstest]
    #[case("/v2/", Some(Route::Base))]
    #[case("/v2", Some(Route::Base))]
    #[case("/v2/a/b/blobs/uploads/", Some(Route::Uploads("a/b")))]
    #[case("/v2/a/b/blobs/uploads", Some(Route::Uploads("a/b")))]
    #[case("/v2/a/blobs/uploads/7", Some(Route::Upload("a", "7")))]
    #[case("/v2/a/b/c/blobs/sha256:1", Some(Route::Blob("a/b/c", "sha256:1")))]
    #[case("/v2/blobs/manifests/x", Some(Route::Manifest("blobs", "x")))]
    #[case("/v2/a/tags/list", Some(Route::Tags("a")))]
    #[case("/v2/a/referrers/sha256:1", Some(Route::Referrers("a", "sha256:1")))]
    #[case("/v2/a", None)]
    #[case("/v1/a/tags/list", None)]
    fn paths_are_read_from_the_right(#[case] path: &str, #[case] route: Option<Route<'_>>) {
        assert_eq!(Route::parse(path), route);
    }
}
