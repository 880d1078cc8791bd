//! Certificates that are replaced while they are in use.

use std::fs;

use tempfile::TempDir;

use super::*;

/// A certificate and its key as PEM.
fn issue() -> (String, String) {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (issued.cert.pem(), issued.signing_key.serialize_pem())
}

fn write(folder: &TempDir, certificate: &str, key: &str) -> (PathBuf, PathBuf) {
    let paths = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    fs::write(&paths.0, certificate).unwrap();
    fs::write(&paths.1, key).unwrap();
    paths
}

fn leaf(certificates: &Certificates) -> Vec<u8> {
    certificates.current.0.read().unwrap().cert[0].to_vec()
}

#[test]
fn a_new_certificate_is_used_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = issue();
    let (certificate_file, key_file) = write(&folder, &certificate, &key);
    let certificates = Certificates::load(certificate_file, key_file).unwrap();
    let first = leaf(&certificates);
    assert!(!certificates.reload().unwrap(), "nothing changed");

    let (certificate, key) = issue();
    write(&folder, &certificate, &key);
    assert!(certificates.reload().unwrap());
    let second = leaf(&certificates);
    assert_ne!(first, second);

    write(&folder, "no certificate", &key);
    assert!(matches!(
        certificates.reload(),
        Err(CertificateError::Certificate(_))
    ));
    assert_eq!(leaf(&certificates), second);
    assert!(!certificates.reload().unwrap(), "complained about once");
}

#[test]
fn what_is_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = issue();
    let load = |certificate: &str, key: &str| {
        let (certificate, key) = write(&folder, certificate, key);
        Certificates::load(certificate, key)
            .unwrap_err()
            .to_string()
    };
    assert!(load("", &key).contains("tls.crt contains no certificate"));
    assert!(load(&certificate, &certificate).contains("tls.key contains no usable private key"));
    let other = issue().1;
    assert!(load(&certificate, &other).contains("does not match the certificate"));
}
