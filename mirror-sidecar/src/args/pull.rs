//! The source of the pull Secret that Pods need for copies.

use mirror_copy::{Credentials, DockerConfig};

use super::ClusterArgs;
use super::login::LoginFlags;
use super::sources::check_docker_config;
use crate::cluster::config::{Kubernetes, PullPlan};
use crate::cluster::index::MAX_SECRET_NAMES;
use crate::config::Config;
use crate::exit::UsageError;

/// The default name of managed Secrets.
const DEFAULT_NAME: &str = "image-mirror-pull";

impl ClusterArgs {
    /// The source of the pull Secret for the images of `config`.
    pub fn pull_plan(&self, config: &Config) -> Result<PullPlan, UsageError> {
        if self.former_pull_secrets.len() >= MAX_SECRET_NAMES {
            return Err(UsageError(format!(
                "--former-pull-secret has {} values, which is more than {}",
                self.former_pull_secrets.len(),
                MAX_SECRET_NAMES - 1
            )));
        }
        let logins = config.pull_logins.clone();
        match (logins.is_empty(), &self.pull_secret) {
            (true, None) => Ok(PullPlan::NotNeeded),
            (true, Some(name)) => Ok(PullPlan::Existing { name: name.clone() }),
            (false, _) if !self.manages_pull_secrets() => Err(UsageError(
                "--pull-username, --pull-password, --pull-password-file and --pull-docker-config need --kubernetes=on; \
                 for an existing Secret, set only --pull-secret"
                    .into(),
            )),
            (false, name) => Ok(PullPlan::Managed {
                name: name.as_deref().unwrap_or(DEFAULT_NAME).to_owned(),
                logins,
            }),
        }
    }

    /// Whether pull Secrets are created.
    pub fn manages_pull_secrets(&self) -> bool {
        self.kubernetes == Kubernetes::On
    }

    /// The first flag that describes the default backup.
    pub fn backup_flag(&self) -> Option<&'static str> {
        let flags = [
            ("--pull-username", self.pull_username.is_some()),
            ("--pull-password", self.pull_password.is_some()),
            ("--pull-password-file", self.pull_password_file.is_some()),
            ("--pull-docker-config", self.pull_docker_config.is_some()),
            ("--former-backup", !self.former_backups.is_empty()),
        ];
        let mut given = flags.into_iter().filter(|(_, is_given)| *is_given);
        given.next().map(|(flag, _)| flag)
    }

    /// The flag of this login.
    pub fn pull_flag(&self) -> &'static str {
        if self.pull_docker_config.is_some() {
            "--pull-docker-config"
        } else {
            "--pull-username and its password"
        }
    }

    /// The login that Pods get for the default backup in `registry`.
    pub fn pull_credentials(&self, registry: &str) -> Result<Option<Credentials>, UsageError> {
        let none = Credentials::anonymous();
        if let Some(file) = &self.pull_docker_config {
            check_docker_config(file, "--pull-docker-config")?;
            return Ok(Some(
                none.with_docker_config(DockerConfig::File(file.clone())),
            ));
        }
        let login = LoginFlags {
            prefix: "--pull",
            username: self.pull_username.as_ref(),
            password: self.pull_password.as_ref(),
            password_file: self.pull_password_file.as_ref(),
        };
        if !login.is_given() {
            return Ok(None);
        }
        login.add_to(none, registry).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::path::Path;

    use clap::Parser as _;
    use mirror_contract::{Backup, Naming, RewriteTarget};
    use rstest::rstest;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::backups::ByBackup;
    use crate::config::{BackupConfig, TargetConfig};
    use crate::origin::BackupOrigin;

    /// What the flags after `serve` mean; `{}` in them stands for `folder`.
    fn plan(flags: &str, folder: &Path) -> Result<PullPlan, UsageError> {
        plan_with(flags, folder, Vec::new())
    }

    fn plan_with(
        flags: &str,
        folder: &Path,
        targets: Vec<TargetConfig>,
    ) -> Result<PullPlan, UsageError> {
        let folder = folder.display().to_string();
        let flags = flags.replace("{}", &folder);
        let all = ["mirror-sidecar", "serve"];
        let cli = Cli::try_parse_from(all.into_iter().chain(flags.split_whitespace())).unwrap();
        let Command::Serve(args) = cli.command else {
            panic!("another command");
        };
        let backup = Backup::new("registry.example", "backup", Naming::Flat).unwrap();
        let default = BackupConfig {
            origin: BackupOrigin::default(),
            pull: args.cluster.pull_credentials(backup.registry())?,
            backup,
            former: Vec::new(),
            push: Credentials::anonymous(),
            max_image_size: None,
            parallel_copies: NonZeroUsize::MIN,
            definition: String::new(),
        };
        let is_managed = args.cluster.manages_pull_secrets();
        let config = Config::new(ByBackup::new(default), targets, is_managed).unwrap();
        args.cluster.pull_plan(&config)
    }

    /// Without pull Secrets, the login of a target is for the lookups of the sidecar alone.
    #[rstest]
    #[case("--kubernetes=off", false)]
    #[case("--kubernetes=watch", false)]
    #[case("--kubernetes=on", true)]
    fn logins_of_targets_need_no_cluster(#[case] flags: &str, #[case] is_managed: bool) {
        let target = TargetConfig {
            location: RewriteTarget::parse("harbor.example/hub").unwrap(),
            pull: Credentials::anonymous(),
        };
        let plan = plan_with(flags, folder().path(), vec![target]).unwrap();
        assert_eq!(matches!(plan, PullPlan::Managed { .. }), is_managed);
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let files = [
            ("password", "s3cret\n"),
            ("empty", ""),
            ("config", "{}"),
            ("odd", "["),
        ];
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[rstest]
    #[case("", None, false)]
    #[case("--kubernetes=on", None, false)]
    #[case("--pull-secret=mine", Some("mine"), false)]
    #[case("--kubernetes=on --pull-secret=mine", Some("mine"), false)]
    #[case(
        "--kubernetes=on --pull-username=u --pull-password=p",
        Some("image-mirror-pull"),
        true
    )]
    #[case(
        "--kubernetes=on --pull-username=u --pull-password-file={}/password",
        Some("image-mirror-pull"),
        true
    )]
    #[case(
        "--kubernetes=on --pull-docker-config={}/config --pull-secret=mine",
        Some("mine"),
        true
    )]
    fn plans(#[case] flags: &str, #[case] name: Option<&str>, #[case] is_managed: bool) {
        let plan = plan(flags, folder().path()).unwrap();
        assert_eq!(plan.name(), name);
        assert_eq!(matches!(plan, PullPlan::Managed { .. }), is_managed);
    }

    #[rstest]
    #[case("--kubernetes=on --pull-username=u", "--pull-username needs")]
    #[case(
        "--kubernetes=on --pull-password=p",
        "--pull-password needs --pull-username"
    )]
    #[case("--kubernetes=on --pull-username=a:b --pull-password=p", "colon")]
    #[case(
        "--kubernetes=on --pull-username=u --pull-password-file={}/absent",
        "--pull-password-file"
    )]
    #[case(
        "--kubernetes=on --pull-username=u --pull-password-file={}/empty",
        "empty"
    )]
    #[case("--kubernetes=on --pull-docker-config={}/odd", "--pull-docker-config")]
    #[case("--pull-username=u --pull-password=p", "--kubernetes=on")]
    #[case("--former-pull-secret=a,b,c,d,e,f,g,h", "more than 7")]
    #[case("--kubernetes=watch --pull-docker-config={}/config", "--kubernetes=on")]
    fn mistakes(#[case] flags: &str, #[case] words: &str) {
        let error = plan(flags, folder().path()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
