//! YAML files, which may be JSON, as values.

use serde_json::Value;

/// What the library tells programmers about duplicate keys.
const ADVICE: &str = ", set DuplicateKeyPolicy in Options if acceptable";

/// Parses a document. As in YAML 1.2, only `true` and `false` are booleans, so `y` and `no` are strings.
///
/// # Errors
/// The reason in one line, without the lines of the document.
pub fn parse(text: &str) -> Result<Value, String> {
    parse_part(text, 0)
}

/// As [`parse`] for a document of a file. `lines_before` are the lines of the file before it, which the lines in errors include.
///
/// # Errors
/// As [`parse`].
pub fn parse_part(text: &str, lines_before: u64) -> Result<Value, String> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map(|location| location.line() + lines_before);
        if exceeds_budget(&error) {
            let at = line.map_or_else(String::new, |line| format!(" at line {line}"));
            return format!("not YAML: too complex: its nesting, or its nodes with those of aliases, exceed a limit{at}");
        }
        let reason = error.without_snippet().to_string().replace(ADVICE, "");
        // Positions are in the document; the line of the file replaces the last one.
        let reason = match (lines_before, line, reason.rfind(" at line ")) {
            (1.., Some(line), Some(at)) => {
                format!("{} at line {line}", reason.get(..at).unwrap_or_default())
            }
            _ => reason,
        };
        format!("not YAML: {reason}")
    })
}

/// An error within an alias wraps another one.
fn exceeds_budget(error: &serde_saphyr::Error) -> bool {
    match error.without_snippet() {
        serde_saphyr::Error::Budget { .. } => true,
        serde_saphyr::Error::AliasError { error, .. } => exceeds_budget(error),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_in_errors_are_those_of_the_file() {
        let error = parse_part("a: 1\nb: [", 40).unwrap_err();
        assert!(error.contains("line 42"), "{error}");
    }

    #[rstest]
    #[case("a: [y, no, on, 'true']", Ok(json!({"a": ["y", "no", "on", "true"]})))]
    #[case("a: [true, 1]", Ok(json!({"a": [true, 1]})))]
    #[case(r#"{"a": {"b": null}}"#, Ok(json!({"a": {"b": null}})))]
    #[case("", Ok(Value::Null))]
    #[case("a: [", Err("not YAML"))]
    #[case("{a: 1, a: 2}", Err("duplicate mapping key: a"))]
    fn documents_are_parsed(#[case] text: &str, #[case] expected: Result<Value, &str>) {
        match (parse(text), expected) {
            (Err(error), Err(words)) => {
                assert!(
                    error.contains(words) && !error.contains("Options"),
                    "{error}"
                );
                assert!(!error.contains('\n'), "{error}");
            }
            (found, expected) => assert_eq!(found, expected.map_err(str::to_owned)),
        }
    }
}
