//! The filter of log events.

use tracing_subscriber::EnvFilter;

/// The client of the API server logs each attempt that this service logs once, and whole responses that it cannot parse. A
/// filter that names these modules replaces this.
const QUIET: &str = "kube_client=off,kube_runtime=error";

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Checks the value of `--log-level`.
///
/// `EnvFilter` accepts every unknown word as the name of a module and then logs nothing. So only levels and `MODULE=LEVEL`
/// are accepted.
pub fn check(text: &str) -> Result<String, String> {
    let directives: Vec<_> = text.split(',').map(str::trim).collect();
    directives
        .iter()
        .try_for_each(|directive| check_directive(directive))?;
    let filter = directives.join(",");
    EnvFilter::try_new(&filter).map_err(|error| error.to_string())?;
    Ok(filter)
}

fn check_directive(directive: &str) -> Result<(), String> {
    let (module, level) = match directive.split_once('=') {
        Some((module, level)) => (Some(module), level),
        None => (None, directive),
    };
    let is_level = LEVELS.iter().any(|known| level.eq_ignore_ascii_case(known));
    let is_name = |part: &str| {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        !part.is_empty() && part.bytes().all(is_letter)
    };
    if is_level && module.is_none_or(|module| module.split("::").all(is_name)) {
        return Ok(());
    }
    Err(format!(
        "--log-level (LOG_LEVEL) is one of {}, or a list such as info,mirror_copy=debug; {directive:?} is none of them",
        LEVELS.join(", ")
    ))
}

/// The filter for a checked value.
pub(super) fn filter(log_level: &str) -> EnvFilter {
    EnvFilter::try_new(format!("{QUIET},{log_level}")).unwrap_or_else(|_| EnvFilter::new("info"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("info")]
    #[case("WARN")]
    #[case("off")]
    #[case("warn,mirror_copy=debug")]
    #[case("info, kube_client=debug,mirror_sidecar::server=trace")]
    fn levels_and_modules_are_accepted(#[case] text: &str) {
        assert_eq!(check(text), Ok(text.replace(' ', "")));
    }

    #[rstest]
    #[case::typo("inof", "\"inof\"")]
    #[case::second("info,debgu", "\"debgu\"")]
    #[case::module_alone("mirror_copy", "\"mirror_copy\"")]
    #[case::module_with_typo("mirror_copy=debgu", "\"mirror_copy=debgu\"")]
    #[case::no_module("=debug", "\"=debug\"")]
    #[case::two("a=b=debug", "\"a=b=debug\"")]
    #[case::span("[span]=debug", "\"[span]=debug\"")]
    #[case::hyphen("mirror-copy=debug", "\"mirror-copy=debug\"")]
    #[case::empty("", "\"\"")]
    #[case::comma("info,", "\"\"")]
    #[case::number("3", "\"3\"")]
    fn everything_else_is_an_error(#[case] text: &str, #[case] named: &str) {
        let error = check(text).unwrap_err();
        assert!(
            error.contains(named) && error.contains("LOG_LEVEL"),
            "{error}"
        );
        assert!(
            error.contains("off, error, warn, info, debug, trace"),
            "{error}"
        );
    }
}
