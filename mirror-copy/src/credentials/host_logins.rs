//! The logins of one registry host, each for a part of its repositories.

use super::error::CredentialError;
use super::helper::Helper;
use super::login::Credential;

/// The logins are looked up once for all repositories of the host.
#[derive(Debug, Default)]
pub(crate) struct HostLogins {
    /// The first one that matches a repository and has a credential is used.
    logins: Vec<ScopedLogin>,
    /// Run if no login matches.
    helper: Option<Helper>,
    from_helper: Option<Credential>,
}

/// A login for the repositories below a path.
#[derive(Debug)]
pub(super) struct ScopedLogin {
    /// `team-a` matches itself and `team-a/…`; empty for all repositories.
    pub(super) path: String,
    /// `None` for an entry without a credential. An error affects these repositories only.
    pub(super) credential: Result<Option<Credential>, CredentialError>,
}

impl HostLogins {
    pub(super) fn new(logins: Vec<ScopedLogin>, helper: Option<Helper>) -> Self {
        Self {
            logins,
            helper,
            from_helper: None,
        }
    }

    /// Creates a login for the whole host.
    pub(super) fn one(credential: Credential) -> Self {
        let (path, credential) = (String::new(), Ok(Some(credential)));
        Self::new(vec![ScopedLogin { path, credential }], None)
    }

    /// Returns the credential for a repository, or for the host itself if it is empty; `None` for anonymous access. May run
    /// a credential helper, once, for at most 30 s.
    pub(crate) async fn find(
        &mut self,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        for login in &self.logins {
            if login.is_for(repository)
                && let Some(credential) = login.credential.clone()?
            {
                return Ok(Some(credential));
            }
        }
        if let Some(helper) = &self.helper {
            self.from_helper = helper.ask().await?;
            self.helper = None;
        }
        Ok(self.from_helper.clone())
    }

    /// Returns whether different repositories may have different logins.
    pub(crate) fn has_paths(&self) -> bool {
        self.logins.iter().any(|login| !login.path.is_empty())
    }

    /// Returns whether [`Self::find`] runs a helper for the host itself.
    pub(super) fn asks_helper(&self) -> bool {
        let is_known =
            |login: &ScopedLogin| login.is_for("") && !matches!(login.credential, Ok(None));
        self.helper.is_some() && !self.logins.iter().any(is_known)
    }
}

impl ScopedLogin {
    fn is_for(&self, repository: &str) -> bool {
        let below = repository.strip_prefix(self.path.as_str());
        self.path.is_empty() || below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}
