//! What to do about an error status.

use super::Operation;
use reqwest::StatusCode;

/// The next step, as the end of a sentence, where the status and the operation leave few causes. Empty otherwise.
pub(super) fn advice(operation: Operation, status: StatusCode, code: &str) -> &'static str {
    match (status.as_u16(), code, operation.is_write()) {
        (429, ..) | (403, "TOOMANYREQUESTS", _) => {
            "; log in to it for a higher limit, or try again later"
        }
        (403, _, true) => "; check that the login may push there and create repositories",
        (403, _, false) => "; check that the login may read there",
        (405, _, true) => "; it is read-only, or a proxy cache: use a registry that accepts pushes",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case(403, "DENIED", Operation::StartUpload, "may push there")]
    #[case(403, "DENIED", Operation::ReadManifest, "may read there")]
    #[case(403, "TOOMANYREQUESTS", Operation::ReadManifest, "higher limit")]
    #[case(429, "", Operation::ReadManifest, "higher limit")]
    #[case(405, "UNSUPPORTED", Operation::StartUpload, "read-only")]
    fn a_refusal_has_a_next_step(
        #[case] status: u16,
        #[case] code: &str,
        #[case] operation: Operation,
        #[case] words: &str,
    ) {
        let status = StatusCode::from_u16(status).unwrap();
        assert!(advice(operation, status, code).contains(words));
        assert_eq!(advice(operation, StatusCode::BAD_GATEWAY, code), "");
    }
}
