//! The logins of one registry host, each for a part of its repositories.

use super::error::CredentialError;
use super::helper::Helper;
use super::login::Credential;

/// See the module's documentation. Looked up once, it serves all repositories of the host.
#[derive(Debug, Default)]
pub(crate) struct HostLogins {
    /// The first one that is for a repository and holds a credential is used.
    logins: Vec<ScopedLogin>,
    /// Asked if none is.
    helper: Option<Helper>,
    /// What the helper responded.
    from_helper: Option<Credential>,
}

/// A login for the repositories below a path.
#[derive(Debug)]
pub(super) struct ScopedLogin {
    /// `team-a` stands for itself and for `team-a/…`; empty for all repositories.
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

    /// One login for the whole host.
    pub(super) fn one(credential: Credential) -> Self {
        let (path, credential) = (String::new(), Ok(Some(credential)));
        Self::new(vec![ScopedLogin { path, credential }], None)
    }

    /// The credential for a repository, or for the host itself if it is empty. `None` for anonymous. May run a
    /// credential helper, once, for 30 s at most.
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

    /// Whether different repositories may have different logins.
    pub(crate) fn has_paths(&self) -> bool {
        self.logins.iter().any(|login| !login.path.is_empty())
    }

    /// Whether [`Self::find`] runs a helper for the host itself.
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
