//! Lists of tags (distribution-spec, "Listing Tags").

use super::repository::Repository;
use crate::error::RegistryError;

impl Repository {
    /// All tags, page by page.
    pub(crate) async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        todo!()
    }
}
