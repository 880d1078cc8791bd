//! What registries allow in repository names beyond the distribution specification.
//!
//! The name of the host decides: a registry reports only that a name is invalid, and only on a push.

use alloc::borrow::Cow;
use alloc::string::{String, ToString};
use core::fmt;

use crate::grammar;
use crate::naming_scheme::Naming;
use crate::reference::DOCKER_HUB;

/// Longest repository name of ECR Public, in characters (API reference, `CreateRepository`).
const MAX_ECR_PUBLIC: usize = 205;

/// What a registry allows in the name of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RegistryRules {
    /// What the distribution specification allows.
    Standard,
    /// One level below an account: Docker Hub.
    OneLevel,
    /// Any depth, but never two separators in a row: Amazon ECR, `(?:[a-z0-9]+(?:[._-][a-z0-9]+)*/)*[a-z0-9]+(?:[._-][a-z0-9]+)*`
    /// (API reference, `CreateRepository`), with at most this many characters.
    SingleSeparators(usize),
}

/// Why copies cannot be named as they shall be in this registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamingError {
    /// The registry has no nested repositories.
    Nested,
    /// The registry has no nested repositories, and copies would be two levels below the account.
    NestedRepository,
    /// The registry allows no two separators in a row.
    DoubleSeparator,
}

impl RegistryRules {
    /// The rules of a registry, `host[:port]` in lower case.
    pub(crate) fn of(registry: &str) -> Self {
        let (host, _) = grammar::split_port(registry);
        match host {
            DOCKER_HUB => return Self::OneLevel,
            "public.ecr.aws" | "ecr-public.aws.com" => {
                return Self::SingleSeparators(MAX_ECR_PUBLIC);
            }
            _ => {}
        }
        let mut labels = host.split('.').skip(1);
        let is_ecr = match labels.next() {
            // <account>.dkr.ecr.<region>.amazonaws.com, and .amazonaws.com.cn and others.
            Some("dkr") => matches!(labels.next(), Some("ecr" | "ecr-fips")),
            // <account>.dkr-ecr.<region>.on.aws, for IPv4 and IPv6.
            Some("dkr-ecr" | "dkr-ecr-fips") => true,
            _ => false,
        };
        if is_ecr {
            Self::SingleSeparators(crate::MAX_REPOSITORY)
        } else {
            Self::Standard
        }
    }

    /// The naming that is best for the registry.
    pub(crate) const fn naming(self) -> Naming {
        match self {
            Self::Standard | Self::OneLevel => Naming::Flat,
            Self::SingleSeparators(_) => Naming::Nested,
        }
    }

    /// Returns an error if the registry refuses the names that this naming gives below `repository`.
    pub(crate) fn check(self, repository: &str, naming: Naming) -> Result<(), NamingError> {
        match (self, naming) {
            (Self::OneLevel, Naming::Nested) => Err(NamingError::Nested),
            (Self::OneLevel, _) if repository.contains('/') => Err(NamingError::NestedRepository),
            (Self::SingleSeparators(_), _) if has_double_separators(repository) => {
                Err(NamingError::DoubleSeparator)
            }
            _ => Ok(()),
        }
    }

    /// Longest repository name, in characters.
    pub(crate) const fn max_repository(self) -> usize {
        match self {
            Self::Standard | Self::OneLevel => crate::MAX_REPOSITORY,
            Self::SingleSeparators(max) => max,
        }
    }

    /// Writes a name so that the registry accepts it. No two names become one.
    pub(crate) fn escape(self, name: &str) -> Cow<'_, str> {
        match self {
            Self::SingleSeparators(_) if needs_escape(name) => Cow::Owned(escape(name)),
            _ => Cow::Borrowed(name),
        }
    }

    /// The reverse of [`Self::escape`]; `None` for what it never returns.
    pub(crate) fn unescape(self, name: &str) -> Option<Cow<'_, str>> {
        match self {
            Self::SingleSeparators(_) if has_double_separators(name) => None,
            Self::SingleSeparators(_) if needs_escape(name) => unescape(name).map(Cow::Owned),
            _ => Some(Cow::Borrowed(name)),
        }
    }

    /// What stands between the host and the hash in a name that was cut. Neither is in any name that was not.
    pub(crate) const fn hash_mark(self) -> &'static str {
        match self {
            Self::Standard | Self::OneLevel => "__",
            // A run of no separators.
            Self::SingleSeparators(_) => "-sep0-",
        }
    }
}

fn has_double_separators(name: &str) -> bool {
    let is_double = |pair: (u8, u8)| is_separator(pair.0) && is_separator(pair.1);
    name.bytes().zip(name.bytes().skip(1)).any(is_double)
}

const fn is_separator(byte: u8) -> bool {
    matches!(byte, b'-' | b'_' | b'.')
}

/// Whether the escaped or unescaped form of a name differs from it.
fn needs_escape(name: &str) -> bool {
    has_double_separators(name) || name.contains("sep")
}

/// A run of `n` equal separators becomes `-sepn-` or `_sepn_`. Where a name has such a word itself, that gets one more `p`.
fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len() + 8);
    for token in Tokens(name) {
        match token.as_bytes() {
            [first, _, ..] if is_separator(*first) => {
                let (separator, count) = (char::from(*first), token.len());
                escaped.extend([separator, 's', 'e', 'p']);
                escaped.push_str(&count.to_string());
                escaped.push(separator);
            }
            _ => match word(token) {
                Some((start, number)) => {
                    escaped.push_str(start);
                    escaped.push('p');
                    escaped.push_str(number);
                }
                None => escaped.push_str(token),
            },
        }
    }
    escaped
}

fn unescape(name: &str) -> Option<String> {
    let mut plain = String::with_capacity(name.len());
    let mut tokens = Tokens(name);
    while let Some(token) = tokens.next() {
        match word(token) {
            None => plain.push_str(token),
            Some(("sep", number)) => {
                let count = number.parse::<usize>().ok()?;
                let separator = plain.pop()?;
                let is_run = match separator {
                    '-' => count >= 2,
                    '_' => count == 2,
                    _ => false,
                };
                let closes = tokens.next()?.chars().eq([separator]);
                let is_canonical = !number.starts_with('0') && count <= crate::MAX_REPOSITORY;
                if !is_run || !closes || !is_canonical {
                    return None;
                }
                plain.extend(core::iter::repeat_n(separator, count));
            }
            Some((start, number)) => {
                plain.push_str(start.strip_suffix('p')?);
                plain.push_str(number);
            }
        }
    }
    Some(plain)
}

/// Splits `sep2`, `sepp2` and so on into letters and digits; `None` for any other word.
fn word(token: &str) -> Option<(&str, &str)> {
    let start = token.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = token.get(start.len()..)?;
    let letters = start.strip_prefix("sep")?;
    (letters.bytes().all(|byte| byte == b'p') && !number.is_empty()).then_some((start, number))
}

/// A name in pieces: words of letters and digits, runs of one separator, and slashes.
struct Tokens<'n>(&'n str);

impl<'n> Iterator for Tokens<'n> {
    type Item = &'n str;

    fn next(&mut self) -> Option<&'n str> {
        let first = self.0.bytes().next()?;
        let continues = |byte: u8| match first {
            b'/' => false,
            separator if is_separator(separator) => byte == separator,
            _ => !is_separator(byte) && byte != b'/',
        };
        let more = self.0.bytes().skip(1).take_while(|&byte| continues(byte));
        let (token, rest) = self.0.split_at_checked(1 + more.count())?;
        self.0 = rest;
        Some(token)
    }
}

impl fmt::Display for NamingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nested => {
                "this registry has no nested repositories; use the naming `auto` or `flat`"
            }
            Self::NestedRepository => {
                "this registry has no nested repositories; set the repository to the account alone"
            }
            Self::DoubleSeparator => {
                "this registry allows no two of `.`, `_`, `-` in a row in the name of a repository"
            }
        })
    }
}

impl core::error::Error for NamingError {}
