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
        let options = serde_saphyr::render_options! {
            snippets: serde_saphyr::SnippetMode::Off,
            line_offset: lines_before,
        };
        let reason = error.render_with_options(options);
        format!("not YAML: {}", reason.replace(ADVICE, ""))
    })
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
