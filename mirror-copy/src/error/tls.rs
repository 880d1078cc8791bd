//! What to do about a refused TLS connection.

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// What webpki says of a certificate of an authority that a server uses as its own. rustls passes it on as text.
pub(crate) const CA_AS_SERVER: &str = "CaUsedAsEndEntity";

/// The error of rustls that an error wraps.
pub(super) fn cause<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Error> {
    if let Some(tls) = error.downcast_ref::<Error>() {
        return Some(tls);
    }
    // An I/O error hides what it wraps: its `source` is the source of that.
    let wrapped = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref);
    match (wrapped, error.source()) {
        (Some(wrapped), _) => cause(wrapped),
        (None, Some(source)) => cause(source),
        (None, None) => None,
    }
}

/// What is wrong, and what to do, in one sentence.
pub(super) fn advice(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    cause(error).and_then(advice_on)
}

/// Whether the certificate of the other side is not accepted.
pub(super) fn is_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(cause(error), Some(Error::InvalidCertificate(_)))
}

fn advice_on(error: &Error) -> Option<&'static str> {
    match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            Some("the registry speaks plain HTTP; use --insecure-registry")
        }
        Error::InvalidCertificate(error) => advice_on_certificate(error),
        Error::PeerIncompatible(_)
        | Error::AlertReceived(
            AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion,
        ) => Some(
            "the registry and this client have no TLS version, cipher or kind of key in common; use TLS 1.2 or later and a \
             certificate with an RSA, P-256, P-384, P-521 or Ed25519 key",
        ),
        error if is_about_client_certificate(error) => Some(
            "the registry requires a client certificate that it trusts; put client.cert and client.key into the folder of this \
             registry in --certs-dir, or renew them",
        ),
        _ => None,
    }
}

/// Whether the registry wants a client certificate, or another one than it got.
pub(super) fn is_about_client_certificate(error: &Error) -> bool {
    matches!(
        error,
        Error::AlertReceived(
            AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateExpired
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
        )
    )
}

fn advice_on_certificate(error: &CertificateError) -> Option<&'static str> {
    Some(match error {
        CertificateError::UnknownIssuer => {
            "the certificate is not signed by a trusted CA; pass its CA with --ca-file, or as ca.crt in --certs-dir"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate is for another host; it must have this one in subjectAltName"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the certificate has expired, or the clock here is wrong; renew it"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet; check the clocks of both sides"
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "the certificate has a key or a signature that is not supported (RSA below 2048 bits, SHA-1, other \
             curves); use RSA, P-256, P-384, P-521 or Ed25519 with SHA-256 or better"
        }
        CertificateError::Other(error) if error.0.to_string() == CA_AS_SERVER => {
            "the certificate is that of an authority (CA:TRUE); give this very certificate with --ca-file, or use one with \
             CA:FALSE"
        }
        CertificateError::Other(error)
            if error.0.to_string().starts_with("UnsupportedCertVersion") =>
        {
            "the certificate is of X.509 version 1, which is not supported; use one of version 3 with subjectAltName"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[rstest::rstest]
    #[case(
        Error::InvalidMessage(InvalidMessage::InvalidContentType),
        "speaks plain HTTP"
    )]
    #[case(
        Error::InvalidCertificate(CertificateError::UnknownIssuer),
        "--ca-file"
    )]
    #[case(
        Error::AlertReceived(AlertDescription::HandshakeFailure),
        "no TLS version"
    )]
    #[case(
        Error::AlertReceived(AlertDescription::CertificateRequired),
        "--certs-dir"
    )]
    fn a_refusal_says_what_to_do(#[case] error: Error, #[case] words: &str) {
        let wrapped = io::Error::other(io::Error::other(error));
        assert!(advice(&wrapped).unwrap().contains(words));
    }

    #[test]
    fn other_errors_need_no_advice() {
        assert_eq!(advice(&io::Error::other("broken pipe")), None);
        assert_eq!(advice(&io::Error::other(Error::DecryptError)), None);
    }
}
