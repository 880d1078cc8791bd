//! The names of objects, and of the installations that they belong to.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::status::query::RowKey;

pub(super) type Labels = BTreeMap<String, String>;

pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const MANAGER: &str = "image-mirror";
/// Labels of an object that name its installation.
pub const INSTALLATION: &str = "image-mirror.dev/installation";
pub const NAMESPACE: &str = "image-mirror.dev/namespace";

/// Longest part of a name that is made of the image. With a hyphen and the hash, a name has at most 253 characters.
const MAX_READABLE: usize = 253 - 1 - HASH;

/// Hexadecimal digits of the hash, 80 bits. Whoever finds two images with the same hash only hides one of them.
const HASH: usize = 20;

/// The name of an installation in the cluster. Objects of another one are neither read nor changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    pub namespace: String,
    /// Unique in the namespace.
    pub name: String,
}

impl Installation {
    pub(super) fn labels(&self) -> Labels {
        let labels = [
            (MANAGED_BY, MANAGER),
            (NAMESPACE, &self.namespace),
            (INSTALLATION, &self.name),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        BTreeMap::from(labels)
    }

    pub(super) fn selector(&self) -> String {
        format!(
            "{NAMESPACE}={},{INSTALLATION}={}",
            self.namespace, self.name
        )
    }

    /// Returns the name of the object of an image in one place: the image, in which all characters that names may not have are
    /// hyphens, and a hash of the installation, the place and the image.
    #[must_use]
    pub fn object_name(&self, key: &RowKey) -> String {
        // Neither names of namespaces nor of installations contain a slash.
        let identity = format!("{}/{}/{key}", self.namespace, self.name);
        let hash = Sha256::digest(identity);
        let first = hash.iter().take(HASH / 2);
        let number = first.fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
        let digits = format!("{number:0HASH$x}");
        let readable = readable(&key.image.to_string());
        if readable.is_empty() {
            return digits;
        }
        format!("{readable}-{digits}")
    }
}

/// Returns the text as a DNS subdomain (RFC 1123): dots stay only between letters and digits.
fn readable(text: &str) -> String {
    let characters: Vec<char> = text
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() || c == '.' => c,
            _ => '-',
        })
        .take(MAX_READABLE)
        .collect();
    let is_alphanumeric = |position: Option<usize>| {
        let character = position.and_then(|position| characters.get(position));
        character.is_some_and(char::is_ascii_alphanumeric)
    };
    let dotted = characters.iter().enumerate().map(|(position, c)| {
        let is_between =
            is_alphanumeric(position.checked_sub(1)) && is_alphanumeric(Some(position + 1));
        if *c == '.' && !is_between { '-' } else { *c }
    });
    dotted.collect::<String>().trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mirror_contract::{BackupName, ImageRef};
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::index::Image;
    use crate::status::query::Place;

    fn installation(name: &str) -> Installation {
        Installation {
            namespace: "image-mirror".to_owned(),
            name: name.to_owned(),
        }
    }

    fn key(image: &str, place: Place) -> RowKey {
        RowKey {
            image: Image::new(ImageRef::parse(image).unwrap().into_owned()),
            place,
        }
    }

    fn backup(name: &'static str) -> Place {
        Place::Backup(BackupName::parse(name).unwrap())
    }

    /// As the API server checks it (`IsDNS1123Subdomain` in k8s.io/apimachinery).
    fn is_subdomain(name: &str) -> bool {
        let is_label = |label: &str| {
            let is_end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
            is_end(label.chars().next())
                && is_end(label.chars().last())
                && label
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        };
        name.len() <= 253 && name.split('.').all(is_label)
    }

    fn reference() -> impl Strategy<Value = String> {
        let host = "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?\\.[a-z]{2,5}(:[0-9]{2,4})?";
        let path = "[a-z0-9]{1,9}((\\.|_|__|-{1,3})[a-z0-9]{1,9}){0,3}(/[a-z0-9]{1,60}){0,4}";
        let end = prop_oneof![
            "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}".prop_map(|tag| format!(":{tag}")),
            "[0-9a-f]{64}".prop_map(|hex| format!("@sha256:{hex}")),
        ];
        (host, path, end).prop_map(|(host, path, end)| format!("{host}/{path}{end}"))
    }

    proptest! {
        #[test]
        fn names_are_valid_and_differ(references in prop::collection::vec(reference(), 1..30)) {
            let mut names = BTreeMap::new();
            for reference in references {
                let places = [backup("default"), backup("team-a"), Place::Rewritten, Place::Excluded];
                for (installation, place) in [installation("one"), installation("two")]
                    .iter()
                    .flat_map(|one| places.clone().map(|place| (one.clone(), place)))
                {
                    let key = key(&reference, place);
                    let name = installation.object_name(&key);
                    prop_assert!(is_subdomain(&name), "{name}");
                    let identity = (installation.name, key.to_string());
                    let known = names.entry(name).or_insert_with(|| identity.clone());
                    prop_assert_eq!(&*known, &identity);
                }
            }
        }
    }

    #[test]
    fn a_name_begins_with_the_image() {
        let name = |image| installation("image-mirror").object_name(&key(image, backup("default")));
        let named = [
            (
                "docker.io/library/nginx:1.27",
                "docker.io-library-nginx-1.27-",
            ),
            ("nginx:V1._.x", "docker.io-library-nginx-v1---x-"),
            (
                "registry.example.com:5000/a:1.-",
                "registry.example.com-5000-a-1-",
            ),
        ];
        for (image, start) in named {
            let name = name(image);
            assert!(name.starts_with(start), "{name}");
            assert_eq!(name.len(), start.len() + HASH);
            assert!(is_subdomain(&name), "{name}");
        }
        // Existing objects keep their names in later versions.
        assert_eq!(
            name("nginx:1.27"),
            "docker.io-library-nginx-1.27-2014a9ed83a507fd29c0"
        );
    }
}
