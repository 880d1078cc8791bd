//! How the policy reaches the sidecar.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use secrecy::SecretString;

use super::login::check_username;
use super::values::{listen_address, read_secret};
use crate::exit::UsageError;

/// How the policy reaches the sidecar.
#[derive(Debug, Args)]
#[command(next_help_heading = "Facade")]
pub struct FacadeArgs {
    /// Address that the policy server connects to (port 0 takes a free one and logs it)
    #[arg(
        long,
        env = "LISTEN",
        default_value = "0.0.0.0:5000",
        value_name = "[ADDRESS:]PORT",
        value_parser = listen_address
    )]
    pub listen: SocketAddr,
    /// Certificate chain in PEM form; read again when it changes
    #[arg(long, env = "TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key in PEM form; read again when it changes
    #[arg(long, env = "TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Serve plain HTTP instead of TLS; for tests only, since credentials are then sent in the clear
    #[arg(long, env = "INSECURE_HTTP", value_parser = clap::builder::FalseyValueParser::new())]
    insecure_http: bool,
    /// User that the policy server must present
    #[arg(long, env = "FACADE_USERNAME", value_name = "NAME")]
    facade_username: Option<String>,
    /// File that holds the password of that user
    #[arg(long, env = "FACADE_PASSWORD_FILE", value_name = "FILE")]
    facade_password_file: Option<PathBuf>,
}

/// How connections are protected.
#[derive(Clone, Debug)]
pub enum Transport {
    /// TLS with the certificate and key of these PEM files.
    Tls {
        /// Certificate chain, leaf first.
        certificate: PathBuf,
        /// Private key.
        key: PathBuf,
    },
    /// Not at all.
    PlainHttp,
}

/// Who may ask.
#[derive(Clone, Debug)]
pub struct FacadeLogin {
    /// User name.
    pub username: String,
    /// Password.
    pub password: SecretString,
}

impl FacadeArgs {
    /// How connections are protected.
    ///
    /// # Errors
    /// [`UsageError`] when neither TLS nor its absence was asked for.
    pub fn transport(&self) -> Result<Transport, UsageError> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), _) if self.insecure_http => Err(UsageError(
                "--insecure-http and --tls-cert contradict each other".into(),
            )),
            (Some(certificate), Some(key)) => Ok(Transport::Tls {
                certificate: certificate.clone(),
                key: key.clone(),
            }),
            _ if self.insecure_http => Ok(Transport::PlainHttp),
            _ => Err(UsageError(
                "the policy server speaks TLS: give --tls-cert and --tls-key, or --insecure-http for a test".into(),
            )),
        }
    }

    /// Who may ask; `None` lets everybody.
    ///
    /// # Errors
    /// [`UsageError`] when only one of user and password is given, or the file cannot be read.
    pub fn login(&self) -> Result<Option<FacadeLogin>, UsageError> {
        match (&self.facade_username, &self.facade_password_file) {
            (None, None) => Ok(None),
            (Some(username), Some(file)) => {
                check_username(username, "--facade")?;
                Ok(Some(FacadeLogin {
                    username: username.clone(),
                    password: read_secret(file, "--facade-password-file")?,
                }))
            }
            _ => Err(UsageError(
                "--facade-username and --facade-password-file belong together".into(),
            )),
        }
    }
}
