//! The character rules of references and Kubernetes names.
//!
//! Those of references follow the grammar of the package `distribution/reference`, which the kubelet uses. They are written by
//! hand, because compiling a regular expression takes longer than a whole evaluation of the policy.

use crate::{MAX_REPOSITORY, MAX_TAG};

fn is_lower_alnum(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
pub(crate) fn is_path_component(text: &str) -> bool {
    let ends_well = |byte: Option<&u8>| byte.is_some_and(|&byte| is_lower_alnum(byte));
    ends_well(text.as_bytes().first())
        && ends_well(text.as_bytes().last())
        && text
            .as_bytes()
            .split(|&byte| is_lower_alnum(byte))
            .all(is_separator)
}

fn is_separator(run: &[u8]) -> bool {
    matches!(run, b"" | b"." | b"_" | b"__") || run.iter().all(|&byte| byte == b'-')
}

/// One or more path components joined by `/`, at most [`MAX_REPOSITORY`] characters.
pub(crate) fn is_path(text: &str) -> bool {
    text.len() <= MAX_REPOSITORY && text.split('/').all(is_path_component)
}

/// Longest DNS name, in characters (RFC 1035, section 2.3.4, without the final dot).
const MAX_DNS_NAME: usize = 253;

/// A DNS name of either case: labels of letters, digits and inner hyphens, joined by dots.
pub(crate) fn is_dns_name(text: &str) -> bool {
    text.len() <= MAX_DNS_NAME
        && text.split('.').all(|label| {
            let bytes = label.as_bytes();
            bytes.first().is_some_and(u8::is_ascii_alphanumeric)
                && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
                && bytes
                    .iter()
                    .all(|&byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

/// An IPv6 address in brackets. Like the grammar of references, it accepts invalid addresses.
pub(crate) fn is_ipv6_literal(text: &str) -> bool {
    text.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|inner| {
            !inner.is_empty()
                && inner
                    .bytes()
                    .all(|byte| byte.is_ascii_hexdigit() || byte == b':')
        })
}

/// A decimal port number.
pub(crate) fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Splits `name:port`; the port is absent when there is no `:` after the name.
pub(crate) fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// Removes the default port of HTTPS: `ghcr.io:443` is `ghcr.io`.
pub(crate) fn without_default_port(host: &str) -> &str {
    match split_port(host) {
        (name, Some(port)) if port.trim_start_matches('0') == "443" => name,
        _ => host,
    }
}

/// A registry host: DNS name or IPv6 literal, with an optional port.
pub(crate) fn is_host(text: &str) -> bool {
    let (name, port) = split_port(text);
    (is_dns_name(name) || is_ipv6_literal(name)) && port.is_none_or(is_port)
}

/// `[\w][\w.-]{0,127}`
pub(crate) fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(is_word)
        && text
            .bytes()
            .all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
}

/// A Kubernetes namespace: an RFC 1123 label of at most 63 characters.
pub(crate) fn is_namespace(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(|&byte| is_lower_alnum(byte))
        && bytes.last().is_some_and(|&byte| is_lower_alnum(byte))
        && bytes
            .iter()
            .all(|&byte| is_lower_alnum(byte) || byte == b'-')
}

/// The name of a Kubernetes object such as a Secret: an RFC 1123 subdomain.
pub(crate) fn is_object_name(text: &str) -> bool {
    let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    is_lower && is_dns_name(text)
}
