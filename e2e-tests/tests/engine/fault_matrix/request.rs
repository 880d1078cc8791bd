//! The columns of the matrix: what is requested.

use super::fault::Fault;
use axum::http::Method;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    Token,
    ManifestHead,
    ManifestGet,
    BlobHead,
    BlobGet,
    Referrers,
    UploadPost,
    UploadPut,
    UploadPatch,
    ManifestPut,
    ApiList,
    ApiWatch,
    ApiPatch,
}

const NO_BODY: &str = "the response has no body that is read";
const NO_DIGEST: &str = "the response carries no digest";
const NOT_JSON: &str = "the response is not read as JSON";
const NO_REDIRECTS: &str = "redirects of this request are not followed, and its host was resolved and verified by earlier requests";

impl Request {
    /// The requests of reading, of writing, and of Kubernetes.
    pub const GROUPS: [(&str, &[Self]); 3] = [
        (
            "Reading from a registry",
            &[
                Self::Token,
                Self::ManifestGet,
                Self::BlobGet,
                Self::Referrers,
            ],
        ),
        (
            "Writing to a registry",
            &[
                Self::ManifestHead,
                Self::BlobHead,
                Self::UploadPost,
                Self::UploadPut,
                Self::UploadPatch,
                Self::ManifestPut,
            ],
        ),
        (
            "The Kubernetes API",
            &[Self::ApiList, Self::ApiWatch, Self::ApiPatch],
        ),
    ];

    pub const ALL: [Self; 13] = [
        Self::Token,
        Self::ManifestHead,
        Self::ManifestGet,
        Self::BlobHead,
        Self::BlobGet,
        Self::Referrers,
        Self::UploadPost,
        Self::UploadPut,
        Self::UploadPatch,
        Self::ManifestPut,
        Self::ApiList,
        Self::ApiWatch,
        Self::ApiPatch,
    ];

    /// The column's title.
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::ManifestHead => "manifest HEAD",
            Self::ManifestGet => "manifest GET",
            Self::BlobHead => "blob HEAD",
            Self::BlobGet => "blob GET",
            Self::Referrers => "referrers",
            Self::UploadPost => "upload POST",
            Self::UploadPut => "upload PUT",
            Self::UploadPatch => "upload PATCH",
            Self::ManifestPut => "manifest PUT",
            Self::ApiList => "list",
            Self::ApiWatch => "watch",
            Self::ApiPatch => "patch",
        }
    }

    /// The method and a piece of path and query, by which the scripted server knows it.
    pub fn pattern(self) -> (Method, &'static str) {
        match self {
            Self::Token => (Method::GET, "/token?"),
            Self::ManifestHead => (Method::HEAD, "/manifests/1"),
            Self::ManifestGet => (Method::GET, "/manifests/1"),
            Self::BlobHead => (Method::HEAD, "/blobs/"),
            Self::BlobGet => (Method::GET, "/blobs/"),
            Self::Referrers => (Method::GET, "/referrers/"),
            Self::UploadPost => (Method::POST, "/uploads/"),
            Self::UploadPut => (Method::PUT, "/blobs/uploads/"),
            Self::UploadPatch => (Method::PATCH, "/blobs/uploads/"),
            Self::ManifestPut => (Method::PUT, "/manifests/"),
            Self::ApiList => (Method::GET, "/api/v1/pods?&limit="),
            Self::ApiWatch => (Method::GET, "/api/v1/pods?&watch=true"),
            Self::ApiPatch => (Method::PATCH, "/secrets/"),
        }
    }

    pub fn is_of_kubernetes(self) -> bool {
        matches!(self, Self::ApiList | Self::ApiWatch | Self::ApiPatch)
    }

    /// Whether the source of a copy gets it, and not its target.
    pub fn is_of_source(self) -> bool {
        matches!(
            self,
            Self::Token | Self::ManifestGet | Self::BlobGet | Self::Referrers
        )
    }

    pub fn has_body(self) -> bool {
        matches!(
            self,
            Self::UploadPut | Self::UploadPatch | Self::ManifestPut
        )
    }

    /// Whether something in the response's body is used.
    pub fn response_has_body(self) -> bool {
        matches!(
            self,
            Self::Token | Self::ManifestGet | Self::BlobGet | Self::Referrers
        ) || self.is_of_kubernetes()
    }

    fn response_is_json(self) -> bool {
        self.response_has_body() && self != Self::BlobGet
    }

    fn follows_redirects(self) -> bool {
        matches!(
            self,
            Self::ManifestHead
                | Self::ManifestGet
                | Self::BlobHead
                | Self::BlobGet
                | Self::Referrers
        )
    }

    /// Why this fault cannot happen to this request.
    pub fn not_applicable(self, fault: Fault) -> Option<&'static str> {
        match fault {
            Fault::Slow if !self.has_body() && !self.response_has_body() => Some(NO_BODY),
            Fault::Extra if !self.response_has_body() => Some(NO_BODY),
            Fault::WrongDigest if self.is_of_kubernetes() => Some(NO_DIGEST),
            Fault::WrongDigest
                if matches!(
                    self,
                    Self::Token | Self::Referrers | Self::UploadPost | Self::UploadPatch
                ) =>
            {
                Some(NO_DIGEST)
            }
            Fault::GarbageJson | Fault::DeepJson if !self.response_is_json() => Some(NOT_JSON),
            // The token service is named by a realm, which takes the place of a redirect.
            Fault::Tls | Fault::Dns if self == Self::Token || self.is_of_kubernetes() => None,
            Fault::Tls | Fault::Dns if !self.follows_redirects() => Some(NO_REDIRECTS),
            _ => None,
        }
    }
}
