//! The naming of copies.

/// How the name of a copy is made from the name of its original.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// One level, which all registries accept: `docker.io/library/nginx` becomes `docker.io-library-nginx`.
    #[default]
    Flat,
    /// The name of the original: `docker.io/library/nginx`.
    Nested,
}
