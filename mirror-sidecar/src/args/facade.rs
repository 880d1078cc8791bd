//! Flags of the facade.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use secrecy::SecretString;

use super::login::check_username;
use super::values::{listen_address, read_secret};
use crate::exit::UsageError;

#[derive(Debug, Args)]
#[command(next_help_heading = "Facade")]
pub struct FacadeArgs {
    /// Address for the policy server (port 0: a free port, which is logged)
    #[arg(
        long,
        env = "LISTEN",
        default_value = "0.0.0.0:5000",
        value_name = "[ADDRESS:]PORT",
        value_parser = listen_address
    )]
    pub listen: SocketAddr,
    /// Certificate chain in PEM format; reloaded when it changes
    #[arg(long, env = "TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key in PEM format; reloaded when it changes
    #[arg(long, env = "TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Serve plain HTTP instead of TLS, for tests only: credentials are sent unencrypted
    #[arg(long, env = "INSECURE_HTTP", value_parser = clap::builder::FalseyValueParser::new())]
    insecure_http: bool,
    /// User name that the policy server must send
    #[arg(long, env = "FACADE_USERNAME", value_name = "NAME")]
    facade_username: Option<String>,
    /// File with the password of --facade-username
    #[arg(long, env = "FACADE_PASSWORD_FILE", value_name = "FILE")]
    facade_password_file: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub enum Transport {
    /// PEM files. The certificate chain begins with the leaf.
    Tls {
        certificate: PathBuf,
        key: PathBuf,
    },
    PlainHttp,
}

#[derive(Clone, Debug)]
pub struct FacadeLogin {
    pub username: String,
    pub password: SecretString,
}

impl FacadeArgs {
    pub fn transport(&self) -> Result<Transport, UsageError> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), _) if self.insecure_http => Err(UsageError(
                "--insecure-http conflicts with --tls-cert".into(),
            )),
            (Some(certificate), Some(key)) => Ok(Transport::Tls {
                certificate: certificate.clone(),
                key: key.clone(),
            }),
            _ if self.insecure_http => Ok(Transport::PlainHttp),
            _ => Err(UsageError(
                "no certificate for the facade; set --tls-cert and --tls-key, or --insecure-http for a test".into(),
            )),
        }
    }

    /// Returns `None` if requests need no authentication.
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
                "--facade-username and --facade-password-file must be set together".into(),
            )),
        }
    }
}
