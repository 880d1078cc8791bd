//! The allow-list of host capabilities (`hostCapabilities` of a policy).

use super::HostError;

/// Every operation that the host knows, as `namespace/operation`.
const OPERATIONS: [&str; 11] = [
    "crypto/v1/is_certificate_trusted",
    "kubernetes/can_i",
    "kubernetes/get_resource",
    "kubernetes/list_resources_all",
    "kubernetes/list_resources_by_namespace",
    "net/v1/dns_lookup_host",
    "oci/v1/manifest_digest",
    "oci/v1/oci_manifest",
    "oci/v1/oci_manifest_config",
    "oci/v1/verify",
    "oci/v2/verify",
];

/// Which operations a policy may call. An empty list allows none, `*` all.
#[derive(Debug, Clone, Default)]
pub(super) struct Capabilities {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
enum Pattern {
    Everything,
    Below(String),
    Exactly(String),
}

impl Capabilities {
    pub fn everything() -> Self {
        Self {
            patterns: vec![Pattern::Everything],
        }
    }

    /// Takes `*`, `oci/*`, `oci/v1/*` or an exact operation; anything else stops a policy server from starting.
    pub fn parse<P: AsRef<str>>(patterns: impl IntoIterator<Item = P>) -> Result<Self, HostError> {
        let patterns = patterns
            .into_iter()
            .map(|pattern| Pattern::parse(pattern.as_ref()))
            .collect::<Result<_, _>>()?;
        Ok(Self { patterns })
    }

    pub fn allow(&self, operation: &str) -> bool {
        self.patterns.iter().any(|pattern| match pattern {
            Pattern::Everything => true,
            Pattern::Below(prefix) => operation.starts_with(prefix),
            Pattern::Exactly(name) => operation == name,
        })
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, HostError> {
        let text = text.trim();
        let known = |found: bool, pattern: Self| {
            if found {
                Ok(pattern)
            } else {
                Err(HostError::Capability(text.to_owned()))
            }
        };
        match text.strip_suffix('*') {
            Some("") => Ok(Self::Everything),
            Some(prefix) => known(
                prefix.ends_with('/') && OPERATIONS.iter().any(|name| name.starts_with(prefix)),
                Self::Below(prefix.to_owned()),
            ),
            None => known(OPERATIONS.contains(&text), Self::Exactly(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Capabilities;
    use rstest::rstest;

    #[rstest]
    #[case::all("*", true, true)]
    #[case::namespace("oci/*", true, false)]
    #[case::version("oci/v1/*", true, false)]
    #[case::exact("oci/v1/oci_manifest", true, false)]
    #[case::another("oci/v2/*", false, false)]
    fn a_pattern_allows_what_it_names(
        #[case] pattern: &str,
        #[case] manifest: bool,
        #[case] dns: bool,
    ) {
        let capabilities = Capabilities::parse([pattern]).unwrap();
        assert_eq!(capabilities.allow("oci/v1/oci_manifest"), manifest);
        assert_eq!(capabilities.allow("net/v1/dns_lookup_host"), dns);
    }

    #[test]
    fn an_empty_list_allows_nothing() {
        let capabilities = Capabilities::parse(Vec::<&str>::new()).unwrap();
        assert!(!capabilities.allow("oci/v1/oci_manifest"));
    }

    #[rstest]
    #[case::half_word("oci/v1/oci_*")]
    #[case::no_operation("oci/v1")]
    #[case::unknown("http/v1/get")]
    #[case::below_a_leaf("oci/v1/verify/*")]
    #[case::empty("")]
    fn a_pattern_that_names_nothing_is_refused(#[case] pattern: &str) {
        assert!(Capabilities::parse([pattern]).is_err());
    }
}
