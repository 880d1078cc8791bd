//! The endpoints of the status on the admin port.

use axum::Router;
use clap::ValueEnum;

use super::api::{self, Api};
use super::page;
use super::sources::Sources;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatusEndpoints {
    /// The page and the API
    All,
    /// The API
    Api,
    /// Nothing
    None,
}

/// Serves the status of what `sources` returns for each request.
pub fn router(
    endpoints: StatusEndpoints,
    sources: impl Fn() -> Sources + Send + Sync + 'static,
) -> Router {
    let api = Api::new(sources);
    match endpoints {
        StatusEndpoints::All => api::router(api.clone()).merge(page::router(api)),
        StatusEndpoints::Api => api::router(api),
        StatusEndpoints::None => Router::new(),
    }
}
