//! What to do about an error status.

use super::Operation;
use reqwest::StatusCode;

/// What nginx responds, in lower case, if it requires a client certificate and there is none, or another one.
pub(crate) const NO_CLIENT_CERTIFICATE: &str = "no required ssl certificate was sent";
pub(crate) const BAD_CLIENT_CERTIFICATE: &str = "the ssl certificate error";

/// The next step, as the end of a sentence, where the status and the operation leave few causes. Empty otherwise.
pub(super) fn advice(
    operation: Operation,
    status: StatusCode,
    code: &str,
    message: &str,
) -> &'static str {
    match (status.as_u16(), code, operation.is_write()) {
        (400, "", _) if is_about_client_certificate(message) => {
            "; the registry requires a client certificate that it trusts: put client.cert and client.key into the folder of \
             this registry in --certs-dir, or renew them"
        }
        (429, ..) | (403, "TOOMANYREQUESTS", _) => {
            "; log in to it for a higher limit, or try again later"
        }
        (403, _, true) => "; check that the login may push there and create repositories",
        (403, _, false) => "; check that the login may read there",
        (405, _, true) => "; it is read-only, or a proxy cache: use a registry that accepts pushes",
        _ => "",
    }
}

fn is_about_client_certificate(message: &str) -> bool {
    [NO_CLIENT_CERTIFICATE, BAD_CLIENT_CERTIFICATE]
        .iter()
        .any(|words| message.contains(words))
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
        assert!(advice(operation, status, code, "").contains(words));
        assert_eq!(advice(operation, StatusCode::BAD_GATEWAY, code, ""), "");
    }
}
