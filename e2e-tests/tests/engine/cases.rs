//! The tricky cases of copying, one by one: `docs/copying.md` lists them with what is expected and the tests' names.

mod auth;
mod claims;
mod digests;
mod limits;
mod manifests;
mod referrers;
mod table;
mod transport;
mod world;
