//! The next step at the end of an error text, where the cause is known.

use super::Operation;
use ipnet::IpNet;
use reqwest::StatusCode;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};
use std::fmt;

/// A change of the settings of the caller that makes a refused request succeed.
///
/// Errors end with the words that [`RegistryOptions::advice`](crate::RegistryOptions::advice) has for it, so that they name
/// a setting as the operator knows it. The [`Display`](fmt::Display) text is the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy<'a> {
    /// Use plain HTTP for the registry: [`insecure_hosts`](crate::RegistryOptions::insecure_hosts).
    PlainHttp,
    /// Trust the authority that signed the certificate, for all registries by
    /// [`extra_root_certificates_pem`](crate::RegistryOptions::extra_root_certificates_pem) or for one by
    /// [`certificates`](crate::RegistryOptions::certificates).
    TrustAuthority,
    /// Trust the certificate itself, which is that of an authority, by
    /// [`extra_root_certificates_pem`](crate::RegistryOptions::extra_root_certificates_pem).
    TrustCertificate,
    /// Present a client certificate: [`certificates`](crate::RegistryOptions::certificates).
    ClientCertificate,
    /// Allow a registry by its private name or address: [`private_hosts`](crate::RegistryOptions::private_hosts).
    PrivateHost(&'a str),
    /// Allow a registry whose name resolves to a private address, by
    /// [`private_hosts`](crate::RegistryOptions::private_hosts) or
    /// [`private_networks`](crate::RegistryOptions::private_networks).
    PrivateAddress {
        /// The registry.
        host: &'a str,
        /// The network that consists of the address.
        network: IpNet,
    },
    /// Allow a private address that a registry refers to, by [`private_networks`](crate::RegistryOptions::private_networks)
    /// or [`allow_private_redirects`](crate::RegistryOptions::allow_private_redirects).
    PrivateTarget {
        /// The network that consists of the address.
        network: IpNet,
    },
    /// Allow registries to refer to private addresses:
    /// [`allow_private_redirects`](crate::RegistryOptions::allow_private_redirects).
    PrivateRedirects,
    /// Allow larger images: [`max_bytes`](crate::CopyOptions::max_bytes).
    RaiseMaxBytes,
}

impl fmt::Display for Remedy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PlainHttp => f.write_str("add it to the insecure hosts"),
            Self::TrustAuthority => f.write_str("add its CA to the trusted certificates"),
            Self::TrustCertificate => {
                f.write_str("add it to the trusted certificates, or use a certificate with CA:FALSE")
            }
            Self::ClientCertificate => {
                f.write_str("add client.cert and client.key to the certificates of this registry, or renew them")
            }
            Self::PrivateHost(host) => write!(f, "the operator can allow the private host {host}"),
            Self::PrivateAddress { host, network } => {
                write!(f, "the operator can allow the private host {host} or network {network}")
            }
            Self::PrivateTarget { network } => {
                write!(f, "the operator can allow the private network {network}, or all private redirects")
            }
            Self::PrivateRedirects => f.write_str("the operator can allow private redirects"),
            Self::RaiseMaxBytes => f.write_str("the operator can raise the limit"),
        }
    }
}

/// The responses of nginx, in lower case, if it requires a client certificate and there is none, or another one.
pub(crate) const NO_CLIENT_CERTIFICATE: &str = "no required ssl certificate was sent";
pub(crate) const BAD_CLIENT_CERTIFICATE: &str = "the ssl certificate error";

/// Text of webpki for a server certificate that is that of an authority. rustls passes it on as text.
pub(crate) const CA_AS_SERVER: &str = "CaUsedAsEndEntity";

/// Returns the next step after an error status, where the status and the operation leave few causes. Empty otherwise.
pub(super) fn of_status(operation: Operation, status: StatusCode, code: &str) -> &'static str {
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

/// Returns whether a 400 of nginx is about the client certificate.
pub(crate) fn needs_client_certificate(status: StatusCode, code: &str, message: &str) -> bool {
    status == StatusCode::BAD_REQUEST
        && code.is_empty()
        && [NO_CLIENT_CERTIFICATE, BAD_CLIENT_CERTIFICATE]
            .iter()
            .any(|words| message.contains(words))
}

/// The cause of a failed TLS handshake, and the remedy unless the text names one.
pub(crate) type TlsProblem = (&'static str, Option<Remedy<'static>>);

/// Returns the cause of a failed TLS handshake, if it is a known one.
pub(crate) fn tls_problem(error: &(dyn std::error::Error + 'static)) -> Option<TlsProblem> {
    match tls_cause(error)? {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            Some(("the registry uses plain HTTP", Some(Remedy::PlainHttp)))
        }
        Error::InvalidCertificate(error) => certificate_problem(error),
        Error::PeerIncompatible(_)
        | Error::AlertReceived(
            AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion,
        ) => Some((
            "the registry and this client have no TLS version, cipher or kind of key in common; use TLS 1.2 or later and a \
             certificate with an RSA, P-256, P-384, P-521 or Ed25519 key",
            None,
        )),
        error if is_about_client_certificate(error) => Some((
            "the registry requires a client certificate that it trusts",
            Some(Remedy::ClientCertificate),
        )),
        _ => None,
    }
}

/// Returns whether the certificate of the other side is not accepted.
pub(super) fn is_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(tls_cause(error), Some(Error::InvalidCertificate(_)))
}

/// Returns whether no retry can help: the certificate of the registry or that of this client is refused.
pub(super) fn is_certificate_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    tls_cause(error).is_some_and(|error| {
        matches!(error, Error::InvalidCertificate(_)) || is_about_client_certificate(error)
    })
}

/// Returns the error of rustls that an error wraps.
pub(crate) fn tls_cause<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Error> {
    if let Some(tls) = error.downcast_ref::<Error>() {
        return Some(tls);
    }
    // An I/O error hides what it wraps: its `source` is the source of that.
    let wrapped = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref);
    match (wrapped, error.source()) {
        (Some(wrapped), _) => tls_cause(wrapped),
        (None, Some(source)) => tls_cause(source),
        (None, None) => None,
    }
}

fn is_about_client_certificate(error: &Error) -> bool {
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

fn certificate_problem(error: &CertificateError) -> Option<TlsProblem> {
    Some(match error {
        CertificateError::UnknownIssuer => (
            "the certificate is not signed by a trusted CA",
            Some(Remedy::TrustAuthority),
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            "the certificate is for another host; it must have this one in subjectAltName",
            None,
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            "the certificate has expired, or the clock here is wrong; renew it",
            None,
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
            "the certificate is not valid yet; check the clocks of both sides",
            None,
        ),
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => (
            "the certificate has a key or a signature that is not supported (RSA below 2048 bits, SHA-1, other \
             curves); use RSA, P-256, P-384, P-521 or Ed25519 with SHA-256 or better",
            None,
        ),
        CertificateError::Other(error) if error.0.to_string() == CA_AS_SERVER => (
            "the certificate is that of an authority (CA:TRUE)",
            Some(Remedy::TrustCertificate),
        ),
        CertificateError::Other(error)
            if error.0.to_string().starts_with("UnsupportedCertVersion") =>
        {
            (
                "the certificate is of X.509 version 1, which is not supported; use one of version 3 with subjectAltName",
                None,
            )
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

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
        assert!(of_status(operation, status, code).contains(words));
        assert_eq!(of_status(operation, StatusCode::BAD_GATEWAY, code), "");
    }

    #[rstest::rstest]
    #[case(
        Error::InvalidMessage(InvalidMessage::InvalidContentType),
        "uses plain HTTP",
        Some(Remedy::PlainHttp)
    )]
    #[case(
        Error::InvalidCertificate(CertificateError::UnknownIssuer),
        "trusted CA",
        Some(Remedy::TrustAuthority)
    )]
    #[case(
        Error::AlertReceived(AlertDescription::HandshakeFailure),
        "no TLS version",
        None
    )]
    #[case(
        Error::AlertReceived(AlertDescription::CertificateRequired),
        "client certificate",
        Some(Remedy::ClientCertificate)
    )]
    fn a_refused_handshake_has_a_remedy(
        #[case] error: Error,
        #[case] words: &str,
        #[case] remedy: Option<Remedy<'static>>,
    ) {
        let wrapped = io::Error::other(io::Error::other(error));
        let (text, found) = tls_problem(&wrapped).unwrap();
        assert!(text.contains(words), "{text}");
        assert_eq!(found, remedy);
    }

    #[test]
    fn other_errors_have_no_known_cause() {
        assert_eq!(tls_problem(&io::Error::other("broken pipe")), None);
        assert_eq!(tls_problem(&io::Error::other(Error::DecryptError)), None);
    }
}
