//! The two ways to name copies.

/// How the name of an image becomes the name of its copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// One level: `docker.io/library/nginx` becomes `docker.io-library-nginx`. For registries without nested repositories.
    #[default]
    Flat,
    /// The original's path: `docker.io/library/nginx`.
    Nested,
}
