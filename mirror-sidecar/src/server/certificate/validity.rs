//! Checks the period of validity of a certificate. No I/O; the time is passed in.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, Error, RootCertStore};

/// A certificate is reported in its last week, or in the last fifth of a shorter validity. cert-manager renews it when a third
/// is left.
const EXPIRES_SOON: Duration = Duration::from_hours(7 * 24);
const LAST_PART_OF_LIFE: u64 = 5;

/// A problem of the facade's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateTrouble {
    pub kind: CertificateTroubleKind,
    /// The period of validity.
    pub reason: String,
}

/// The worst is last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CertificateTroubleKind {
    ExpiresSoon,
    NotValidYet,
    Expired,
}

impl fmt::Display for CertificateTroubleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ExpiresSoon => {
                "the certificate of the facade expires soon; renew the files of --tls-cert and --tls-key"
            }
            Self::NotValidYet => {
                "the certificate of the facade is not valid yet; check the clocks, or replace the files of --tls-cert and \
                 --tls-key"
            }
            Self::Expired => {
                "the certificate of the facade has expired; renew the files of --tls-cert and --tls-key"
            }
        })
    }
}

/// Returns the worst problem of a certificate chain.
pub(super) fn check(chain: &[CertificateDer<'_>], now: UnixTime) -> Option<CertificateTrouble> {
    let troubles = chain.iter().filter_map(|one| check_one(one, now.as_secs()));
    troubles.max_by_key(|trouble| trouble.kind)
}

fn check_one(certificate: &CertificateDer<'_>, now: u64) -> Option<CertificateTrouble> {
    let (start, end) = period(certificate)?;
    let part = end.saturating_sub(start) / LAST_PART_OF_LIFE;
    let kind = if now > end {
        CertificateTroubleKind::Expired
    } else if now < start {
        CertificateTroubleKind::NotValidYet
    } else if end - now <= part.min(EXPIRES_SOON.as_secs()) {
        CertificateTroubleKind::ExpiresSoon
    } else {
        return None;
    };
    let reason = format!("it is valid from {} to {}", date(start), date(end));
    Some(CertificateTrouble { kind, reason })
}

/// Returns the first and the last second of validity, since 1970; `None` for a certificate that webpki cannot parse.
///
/// webpki returns them only in its errors. It checks the time before everything else.
fn period(certificate: &CertificateDer<'_>) -> Option<(u64, u64)> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone().into_owned()).ok()?;
    let provider = Arc::new(default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .ok()?;
    let name = ServerName::try_from("localhost").ok()?;
    let error_at = |seconds| {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        match verifier.verify_server_cert(certificate, &[], &name, &[], time) {
            Err(Error::InvalidCertificate(error)) => Some(error),
            _ => None,
        }
    };
    let start = match error_at(0) {
        Some(CertificateError::NotValidYetContext { not_before, .. }) => not_before.as_secs(),
        _ => 0,
    };
    match error_at(u64::MAX) {
        Some(CertificateError::ExpiredContext { not_after, .. }) => {
            Some((start, not_after.as_secs()))
        }
        _ => None,
    }
}

fn date(seconds: u64) -> String {
    let timestamp = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    timestamp.map_or_else(|| seconds.to_string(), |timestamp| timestamp.to_string())
}

#[cfg(test)]
mod tests {
    use super::CertificateTroubleKind::{Expired, ExpiresSoon, NotValidYet};
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

    /// A certificate for these days of January 2030.
    fn certificate(days: [u8; 2], is_ca: bool) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["facade.example".to_owned()]).unwrap();
        [params.not_before, params.not_after] = days.map(|day| date_time_ymd(2030, 1, day));
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().into()
    }

    fn hour(hours: i64) -> UnixTime {
        let seconds = date_time_ymd(2030, 1, 1).unix_timestamp() + hours * 3600;
        UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap()))
    }

    #[rstest::rstest]
    #[case::not_valid_yet([2, 31], 23, Some(NotValidYet))]
    #[case::fine([1, 31], 24, None)]
    #[case::fine_in_the_last_week([1, 31], 24 * 23, None)]
    #[case::last_part([1, 31], 24 * 24 + 1, Some(ExpiresSoon))]
    #[case::short_life([1, 6], 24 * 3, None)]
    #[case::end_of_a_short_life([1, 6], 24 * 4 + 1, Some(ExpiresSoon))]
    #[case::expired([1, 6], 24 * 5 + 1, Some(Expired))]
    fn each_part_of_a_life_is_known(
        #[case] days: [u8; 2],
        #[case] hours: i64,
        #[case] expected: Option<CertificateTroubleKind>,
        #[values(false, true)] is_ca: bool,
    ) {
        let certificate = certificate(days, is_ca);
        let trouble = check(&[certificate], hour(hours));
        assert_eq!(trouble.map(|trouble| trouble.kind), expected);
    }

    #[test]
    fn the_worst_of_a_chain_counts() {
        let chain = [certificate([1, 31], false), certificate([1, 6], true)];
        let trouble = check(&chain, hour(24 * 29)).unwrap();
        assert_eq!(trouble.kind, Expired);
        let period = "it is valid from 2030-01-01T00:00:00Z to 2030-01-06T00:00:00Z";
        assert_eq!(trouble.reason, period);
        assert_eq!(check(&[CertificateDer::from(vec![1])], hour(0)), None);
    }
}
