//! Parsers for the values of flags: numbers, sizes, durations, addresses.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use k8s_openapi::jiff::SignedDuration;
use mirror_contract::NamespacePattern;
use mirror_contract::response::is_secret_name;
use mirror_copy::read_password_file;
use secrecy::{ExposeSecret as _, SecretString};

use crate::exit::UsageError;

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

/// The units of sizes as in GNU coreutils: `K` and `KiB` are 1024, `KB` is 1000.
const SIZE_UNITS: [&str; 4] = ["k", "m", "g", "t"];

/// Parses a duration: units in descending order, such as `1d`, `1h30m` or `500ms`. A day has 24 hours.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const WRONG: &str = "must be a duration with a unit, such as 5s, 30m, 1h30m or 1d";
    let (days, rest) = match text.split_once('d') {
        Some((days, rest)) if days.bytes().all(|byte| byte.is_ascii_digit()) => {
            let days: u64 = days.parse().map_err(|_| WRONG)?;
            let seconds = days.checked_mul(SECONDS_PER_DAY);
            (Duration::from_secs(seconds.ok_or("is too long")?), rest)
        }
        _ => (Duration::ZERO, text),
    };
    if rest.is_empty() && rest.len() < text.len() {
        return Ok(days);
    }
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        return Err(format!("has no unit: {text}s are seconds, {text}m minutes"));
    }
    let rest: SignedDuration = rest.trim_start().parse().map_err(|_| WRONG)?;
    let rest = Duration::try_from(rest).map_err(|_| "must not be negative")?;
    Ok(days.checked_add(rest).ok_or("is too long")?)
}

/// Parses a number of bytes: `1048576`, `512M`, `20Gi`, `20GB`.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let digits = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let unit = unit.to_ascii_lowercase();
    if matches!(unit.as_str(), "" | "b") {
        return Some(number);
    }
    let power = (1..).zip(SIZE_UNITS).find_map(|(power, letter)| {
        let base: u64 = match unit.strip_prefix(letter)? {
            "" | "i" | "ib" => 1024,
            "b" => 1000,
            _ => return None,
        };
        base.checked_pow(power)
    });
    number.checked_mul(power?)
}

pub(super) fn positive<T: FromStr>(text: &str) -> Result<T, &'static str> {
    text.parse()
        .map_err(|_| "must be a whole number, 1 or more")
}

/// Parses an address to listen on. A port alone stands for all addresses.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, &'static str> {
    const WRONG: &str = "must be a port, such as 5000, or an IP address with a port, such as 127.0.0.1:5000 or [::1]:5000";
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let ip = match host {
        "localhost" => Ipv4Addr::LOCALHOST,
        "" | "*" => Ipv4Addr::UNSPECIFIED,
        _ => return Err(WRONG),
    };
    let port = port.parse().map_err(|_| WRONG)?;
    Ok(SocketAddr::new(IpAddr::V4(ip), port))
}

/// Spaces around a comma are ignored.
pub(super) fn namespace_pattern(text: &str) -> Result<NamespacePattern<'static>, &'static str> {
    NamespacePattern::parse(text.trim())
        .map(NamespacePattern::into_owned)
        .ok_or("must be the name of a namespace; a trailing * is a wildcard")
}

pub(super) fn secret_name(text: &str) -> Result<String, &'static str> {
    is_secret_name(text)
        .then(|| text.to_owned())
        .ok_or("must be lower-case letters, digits, hyphens and dots, as names of Secrets are")
}

/// Reads a password from a file that `flag` names. It must not be empty.
pub(super) fn read_secret(file: &Path, flag: &str) -> Result<SecretString, UsageError> {
    let wrong = |reason: &dyn Display| UsageError(format!("{flag} {}: {reason}", file.display()));
    let password = read_password_file(file).map_err(|error| wrong(&error))?;
    if password.expose_secret().is_empty() {
        return Err(wrong(&"the file is empty"));
    }
    Ok(password)
}

pub(super) fn http_url(text: &str) -> Result<hyper::Uri, &'static str> {
    text.parse()
        .ok()
        .filter(|url: &hyper::Uri| url.scheme_str() == Some("http") && url.host().is_some())
        .ok_or("must be a URL such as http://mirror-sidecar.image-mirror.svc:8080/readyz")
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("5s", Ok(5))]
    #[case("1h30m", Ok(5400))]
    #[case("1d", Ok(86_400))]
    #[case("2d12h", Ok(216_000))]
    #[case("1d 30m", Ok(88_200))]
    #[case("0s", Ok(0))]
    #[case("30", Err("30s are seconds, 30m minutes"))]
    #[case("", Err("such as 5s"))]
    #[case("d", Err("such as 5s"))]
    #[case("-5s", Err("negative"))]
    #[case("1d-5s", Err("negative"))]
    #[case("tomorrow", Err("such as 5s"))]
    #[case("999999999999999999d", Err("too long"))]
    fn times(#[case] text: &str, #[case] expected: Result<u64, &str>) {
        match (duration(text), expected) {
            (Ok(time), Ok(seconds)) => assert_eq!(time.as_secs(), seconds),
            (Err(error), Err(words)) => assert!(error.contains(words), "{error}"),
            (result, _) => panic!("{result:?}"),
        }
    }

    #[rstest]
    #[case("5000", Some("0.0.0.0:5000"))]
    #[case(":5000", Some("0.0.0.0:5000"))]
    #[case("*:5000", Some("0.0.0.0:5000"))]
    #[case("localhost:0", Some("127.0.0.1:0"))]
    #[case("10.0.0.1:5000", Some("10.0.0.1:5000"))]
    #[case("[::1]:5000", Some("[::1]:5000"))]
    #[case("70000", None)]
    #[case("10.0.0.1", None)]
    #[case("example.com:5000", None)]
    #[case("", None)]
    fn addresses(#[case] text: &str, #[case] address: Option<&str>) {
        let parsed = listen_address(text).ok().map(|parsed| parsed.to_string());
        assert_eq!(parsed.as_deref(), address);
    }

    #[rstest]
    #[case("4", Some(4))]
    #[case("0", None)]
    #[case("-1", None)]
    #[case("four", None)]
    fn positive_numbers(#[case] text: &str, #[case] number: Option<usize>) {
        let parsed = positive::<NonZeroUsize>(text).ok();
        assert_eq!(parsed.map(NonZeroUsize::get), number);
    }
}
