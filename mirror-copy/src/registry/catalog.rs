//! The list of repositories of a registry (distribution API, "Listing Repositories"). It is no part of the OCI specification,
//! and many registries refuse it.

use super::Registry;
use super::pages::MAX_PAGES;
use crate::error::{Operation, RegistryError, Subject};
use crate::json::{self, Bounded};
use crate::reference::is_repository;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Maximum number of repositories: at 255 bytes each, 25 MiB of names.
const MAX_REPOSITORIES: usize = 100_000;

/// Longest name of a repository, in bytes.
const MAX_NAME: usize = 255;

/// Page size that is requested.
const PAGE: usize = 1000;

#[derive(Deserialize)]
struct Catalog {
    /// Some registries return null for an empty list.
    repositories: Option<Bounded<Name, MAX_REPOSITORIES>>,
}

/// An entry of the list; `None` if it is not a valid name.
struct Name(Option<String>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        let text = json::text(raw, MAX_NAME).ok();
        Ok(Self(text.filter(|text| is_repository(text))))
    }
}

impl Registry {
    /// Returns the repositories that the registry lists and `is_wanted` selects, in its order. Registries list only those that
    /// the login may see.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry does not list its repositories, or the list cannot be read to its end: it is never a
    /// part of all.
    pub async fn repositories(
        &self,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>, RegistryError> {
        let subject = Subject {
            operation: Operation::ListRepositories,
            object: format!("registry {}", self.host()),
        };
        let handle = self.all_repositories();
        let mut url = self.shared.endpoint.base.clone();
        url.set_path(&format!("{}_catalog", url.path()));
        url.query_pairs_mut().append_pair("n", &PAGE.to_string());
        let mut names = Vec::new();
        for _ in 0..MAX_PAGES {
            let page = handle.page(&subject, url, "application/json", &[], None);
            let page = page.await?;
            let list: Catalog = json::from_slice(page.body.as_ref()).map_err(|_| {
                RegistryError::protocol(&subject, "the response is not a list of repositories")
            })?;
            let list = list.repositories.unwrap_or_default();
            let is_full = list.items.len() >= PAGE && page.next.is_none();
            if page.is_cut || is_full {
                let reason = "a page is full and has no usable Link header, so that the list may be incomplete; check any proxy \
                              before the registry";
                return Err(RegistryError::protocol(&subject, reason));
            }
            let wanted = list.items.into_iter().filter_map(|name| name.0);
            names.extend(wanted.filter(|name| is_wanted(name)));
            if list.is_cut || names.len() > MAX_REPOSITORIES {
                break;
            }
            match page.next {
                Some(next) => url = next,
                None => return Ok(names),
            }
        }
        let reason = format!(
            "it has more than {MAX_REPOSITORIES} repositories or {MAX_PAGES} pages of them"
        );
        Err(RegistryError::protocol(&subject, reason))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{registry, respond};

    #[tokio::test]
    async fn all_pages_are_read_and_other_names_left_out() {
        let (registry, log) = registry(|parts, _| match parts.uri.query() {
            Some("n=1000") => respond(
                200,
                &[("link", "</v2/_catalog?last=b&n=1000>; rel=\"next\"")],
                r#"{"repositories":["acme/a","other/b","NO",7]}"#,
            ),
            _ => respond(200, &[], r#"{"repositories":["acme/c"]}"#),
        })
        .await;
        let names = registry.repositories(|name| name.starts_with("acme/"));
        assert_eq!(names.await.unwrap(), ["acme/a", "acme/c"]);
        assert_eq!(log.lines().len(), 2);
    }

    #[rstest::rstest]
    #[case(200, r#"{"repositories":null}"#, Some(0))]
    #[case(200, "<html>", None)]
    #[case(401, "", None)]
    #[case(404, "", None)]
    #[tokio::test]
    async fn a_refused_list_is_an_error(
        #[case] status: u16,
        #[case] body: &'static str,
        #[case] count: Option<usize>,
    ) {
        let (registry, _) = registry(move |_, _| respond(status, &[], body)).await;
        let names = registry.repositories(|_| true).await;
        assert_eq!(names.ok().map(|names| names.len()), count);
    }
}
