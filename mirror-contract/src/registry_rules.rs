//! Limits of registries for repository names beyond the distribution specification.
//!
//! They are derived from the name of the host: a registry only reports that a name is invalid, and only on a push.

use alloc::borrow::Cow;
use alloc::string::{String, ToString};
use core::fmt;

use crate::grammar;
use crate::naming_scheme::Naming;
use crate::reference::DOCKER_HUB;

/// Longest repository name of ECR Public, in characters (API reference, `CreateRepository`).
const MAX_ECR_PUBLIC: usize = 205;

/// The limits of a registry for repository names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RegistryRules {
    /// Those of the distribution specification.
    Standard,
    /// One level below an account: Docker Hub.
    OneLevel,
    /// Any depth, but no two separators in a row: Amazon ECR, `(?:[a-z0-9]+(?:[._-][a-z0-9]+)*/)*[a-z0-9]+(?:[._-][a-z0-9]+)*`
    /// (API reference, `CreateRepository`), with at most this many characters.
    SingleSeparators(usize),
}

/// Why a registry does not accept the configured names of copies. Displayed as a sentence with the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamingError {
    /// The naming is [`Naming::Nested`], but the registry has no nested repositories.
    Nested,
    /// The repository has several levels, but the registry has no nested repositories.
    NestedRepository,
    /// The repository has two separators in a row, which the registry does not allow.
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

    pub(crate) const fn naming(self) -> Naming {
        match self {
            Self::Standard | Self::OneLevel => Naming::Flat,
            Self::SingleSeparators(_) => Naming::Nested,
        }
    }

    /// Returns an error if the registry does not accept the names that `naming` makes below `repository`.
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

    /// Encodes a name for the registry. Different names stay different.
    pub(crate) fn escape(self, name: &str) -> Cow<'_, str> {
        match self {
            Self::SingleSeparators(_) if needs_escape(name) => Cow::Owned(escape(name)),
            _ => Cow::Borrowed(name),
        }
    }

    /// The reverse of [`Self::escape`]; `None` for anything else.
    pub(crate) fn unescape(self, name: &str) -> Option<Cow<'_, str>> {
        match self {
            Self::SingleSeparators(_) if has_double_separators(name) => None,
            Self::SingleSeparators(_) if needs_escape(name) => unescape(name).map(Cow::Owned),
            _ => Some(Cow::Borrowed(name)),
        }
    }

    /// Separates the host and the hash in a shortened name, and occurs in no other name.
    pub(crate) const fn hash_mark(self) -> &'static str {
        match self {
            Self::Standard | Self::OneLevel => "__",
            // Escaping never makes a run of 0 separators.
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

fn needs_escape(name: &str) -> bool {
    has_double_separators(name) || name.contains("sep")
}

/// A run of `n` equal separators becomes `-sepn-` or `_sepn_`. Such a word in the name itself gets one more `p`.
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

/// Splits `sep2`, `sepp2` and so on into letters and digits; returns `None` for any other word.
fn word(token: &str) -> Option<(&str, &str)> {
    let start = token.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = token.get(start.len()..)?;
    let letters = start.strip_prefix("sep")?;
    (letters.bytes().all(|byte| byte == b'p') && !number.is_empty()).then_some((start, number))
}

/// The tokens of a name: words of letters and digits, runs of one separator, and slashes.
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
                "this registry does not allow two of `.`, `_`, `-` in a row in the name of a repository"
            }
        })
    }
}

impl core::error::Error for NamingError {}
