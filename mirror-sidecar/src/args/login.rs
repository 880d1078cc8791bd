//! A login from flags: a user with a password or a password file.

use std::path::PathBuf;

use mirror_copy::{Credentials, Login};
use secrecy::SecretString;

use super::values::read_secret;
use crate::exit::UsageError;

/// The flags of a login.
pub(super) struct LoginFlags<'a> {
    /// The start of the names of the flags, such as `--pull`.
    pub prefix: &'static str,
    pub username: Option<&'a String>,
    pub password: Option<&'a SecretString>,
    pub password_file: Option<&'a PathBuf>,
}

impl LoginFlags<'_> {
    pub(super) fn is_given(&self) -> bool {
        self.username.is_some() || self.password.is_some() || self.password_file.is_some()
    }

    /// Adds the login for `host` to `credentials`, if there is one. The file is read whenever the login is needed; it is
    /// read here only to report errors early.
    pub(super) fn add_to(
        &self,
        credentials: Credentials,
        host: &str,
    ) -> Result<Credentials, UsageError> {
        let prefix = self.prefix;
        let Some(username) = self.username else {
            let flag = match (self.password, self.password_file) {
                (None, None) => return Ok(credentials),
                (Some(_), _) => "password",
                (None, Some(_)) => "password-file",
            };
            let message = format!("{prefix}-{flag} needs {prefix}-username");
            return Err(UsageError(message));
        };
        check_username(username, prefix)?;
        match (self.password_file, self.password) {
            (Some(file), _) => {
                read_secret(file, &format!("{prefix}-password-file"))?;
                Ok(credentials.with_login_file(host, username, file.clone()))
            }
            (None, Some(password)) => {
                let login = Login {
                    username: username.clone(),
                    password: password.clone(),
                };
                Ok(credentials.with_login(host, login))
            }
            (None, None) => Err(UsageError(format!(
                "{prefix}-username needs {prefix}-password-file or {prefix}-password"
            ))),
        }
    }
}

/// Returns whether Basic authentication can send the name of a user. The name ends at the first colon (RFC 7617, section 2).
pub fn is_username(username: &str) -> bool {
    !username.is_empty() && !username.contains(':')
}

pub(super) fn check_username(username: &str, prefix: &str) -> Result<(), UsageError> {
    if !is_username(username) {
        return Err(UsageError(format!(
            "{prefix}-username must not be empty and cannot contain a colon (RFC 7617)"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(None, false, false, None)]
    #[case(Some("u"), true, false, None)]
    #[case(Some("u"), false, true, Some("--test-password-file /nowhere"))]
    #[case(None, true, false, Some("--test-password needs --test-username"))]
    #[case(None, false, true, Some("--test-password-file needs --test-username"))]
    #[case(
        Some("u"),
        false,
        false,
        Some("--test-username needs --test-password-file or")
    )]
    #[case(Some("a:b"), true, false, Some("--test-username must not"))]
    #[case(Some(""), true, false, Some("--test-username must not"))]
    fn user_and_password_belong_together(
        #[case] username: Option<&str>,
        #[case] has_password: bool,
        #[case] has_file: bool,
        #[case] mistake: Option<&str>,
    ) {
        let username = username.map(str::to_owned);
        let password = has_password.then(|| SecretString::from("s3cret"));
        let file = has_file.then(|| PathBuf::from("/nowhere"));
        let flags = LoginFlags {
            prefix: "--test",
            username: username.as_ref(),
            password: password.as_ref(),
            password_file: file.as_ref(),
        };
        let result = flags.add_to(Credentials::anonymous(), "registry.example");
        let error = result.err().map(|error| error.to_string());
        match (&error, mistake) {
            (None, None) => {}
            (Some(error), Some(words)) if error.starts_with(words) => {}
            _ => panic!("{error:?}"),
        }
    }
}
