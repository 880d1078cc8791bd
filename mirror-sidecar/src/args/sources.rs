//! Flags of the connections to registries, and of originals.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use mirror_copy::{
    Credentials, DockerConfig, IpNet, PrivateHosts, Registries, RegistryOptions, Remedy,
    SetupError, Timeouts,
};

use super::values::bytes;
use crate::backups::BackupLocations;
use crate::exit::UsageError;

#[derive(Debug, Args)]
#[command(next_help_heading = "Registries")]
pub struct SourceArgs {
    /// Use plain HTTP for this registry (repeatable, or comma-separated); `serve` then also reads originals from it if it is
    /// in a private network
    #[arg(
        long,
        env = "INSECURE_REGISTRIES",
        value_delimiter = ',',
        value_name = "HOST[:PORT]",
        value_parser = host
    )]
    insecure_registry: Vec<String>,
    /// Docker config with credentials for registries; by default the one that docker uses
    #[arg(long, env = "DOCKER_CONFIG_FILE", value_name = "FILE")]
    docker_config: Option<PathBuf>,
    /// File with PEM certificates to trust besides those of the system, for registries with a private CA (repeatable, or
    /// comma-separated)
    #[arg(long, env = "CA_FILE", value_delimiter = ',', value_name = "FILE")]
    ca_file: Vec<PathBuf>,
    /// Folder with certificates for single registries, with the layout of docker's certs.d: HOST[:PORT]/ca.crt is trusted for
    /// that registry, and client.cert with client.key is the client certificate. The files of a Secret of type
    /// kubernetes.io/tls (tls.crt, tls.key, ca.crt) work too. Changed files are used within a minute
    #[arg(long, env = "CERTS_DIR", value_name = "FOLDER")]
    certs_dir: Option<PathBuf>,
    /// Follow redirects, upload URLs and token services of a registry in a public network to addresses in a private one
    #[arg(long, env = "ALLOW_PRIVATE_REDIRECTS", value_parser = clap::builder::FalseyValueParser::new())]
    allow_private_redirects: bool,
    /// Timeout for the first byte of a layer, such as 30s or 1h30m. A proxy that scans layers holds back each until it has
    /// received all of it
    #[arg(
        long,
        env = "FIRST_BYTE_TIMEOUT",
        value_name = "DURATION",
        default_value = "10m",
        value_parser = first_byte_timeout
    )]
    first_byte_timeout: Duration,
}

#[derive(Clone, Debug)]
enum PrivateRegistry {
    Host(String),
    Network(IpNet),
}

/// Limits of originals. Users who may create Pods choose their names.
#[derive(Debug, Args)]
#[command(next_help_heading = "Originals")]
pub struct OriginalsArgs {
    /// Read originals from this registry although its name or its address is in a private network or on this machine; or
    /// from all addresses of a network, such as 10.20.0.0/16 (repeatable, or comma-separated)
    #[arg(
        long,
        env = "PRIVATE_REGISTRIES",
        value_delimiter = ',',
        value_name = "HOST[:PORT]|CIDR",
        value_parser = private_registry
    )]
    private_registry: Vec<PrivateRegistry>,
    /// Read originals from the current and former hosts of backups with the login of the docker config. Users who may create Pods can then
    /// copy everything that this login can read into the backup
    #[arg(long, env = "DOCKER_CONFIG_READS_BACKUP_HOST", value_parser = clap::builder::FalseyValueParser::new())]
    docker_config_reads_backup_host: bool,
    /// Maximum size of an image in bytes, with the layers of all platforms and of referrers such as signatures: a number, with
    /// K, M, G or T (also Ki, KiB, …) for powers of 1024, or KB, MB, … for powers of 1000; 0 or none: no limit
    #[arg(
        long,
        env = "MAX_IMAGE_SIZE",
        value_name = "BYTES",
        default_value = "50G",
        value_parser = size_limit
    )]
    pub max_image_size: SizeLimit,
}

/// A limit in bytes; `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeLimit(pub Option<u64>);

impl SourceArgs {
    /// The credentials of the docker config.
    pub fn credentials(&self) -> Result<Credentials, UsageError> {
        Ok(Credentials::anonymous().with_docker_config(self.docker_config()?))
    }

    /// The credentials for a backup in `locations`, with those for pushing to it. Its former locations in other registries are
    /// read with the logins of the docker config, unless `push` has one of its own.
    pub fn backup_credentials(
        &self,
        push: Credentials,
        locations: &BackupLocations,
    ) -> Result<Credentials, UsageError> {
        let former = locations.former_registries();
        if former.is_empty() {
            return Ok(push);
        }
        Ok(push.with_docker_config_for(former, self.docker_config()?))
    }

    fn docker_config(&self) -> Result<DockerConfig, UsageError> {
        Ok(match &self.docker_config {
            Some(file) => {
                check_docker_config(file, "--docker-config")?;
                DockerConfig::File(file.clone())
            }
            None => DockerConfig::Default,
        })
    }

    pub fn has_docker_config(&self) -> bool {
        self.docker_config.is_some()
    }

    /// The registries, with `credentials`.
    pub fn registries(&self, credentials: Credentials) -> Result<Registries, UsageError> {
        self.registries_in(credentials, RegistryOptions::default())
    }

    /// The registries of originals that users name, for these backups. They use the credentials of the docker config, except at
    /// the current and former hosts of backups, which are accessed anonymously unless `allowed` permits the login.
    pub fn originals<'b>(
        &self,
        allowed: &OriginalsArgs,
        backups: impl IntoIterator<Item = &'b BackupLocations>,
    ) -> Result<Registries, UsageError> {
        let hosts = BackupHosts::of(allowed, backups);
        let credentials = self.credentials_without(&hosts)?;
        let options = RegistryOptions {
            // A client certificate is a login as well.
            hosts_without_client_certificate: hosts.without_login,
            ..allowed.addresses(hosts.current)
        };
        self.registries_in(credentials, options)
    }

    /// The credentials of [`Self::originals`].
    pub fn original_credentials<'b>(
        &self,
        allowed: &OriginalsArgs,
        backups: impl IntoIterator<Item = &'b BackupLocations>,
    ) -> Result<Credentials, UsageError> {
        self.credentials_without(&BackupHosts::of(allowed, backups))
    }

    fn credentials_without(&self, hosts: &BackupHosts) -> Result<Credentials, UsageError> {
        let credentials = self.credentials()?;
        let hosts = hosts.without_login.iter();
        Ok(hosts.fold(credentials, |credentials, host| credentials.without(host)))
    }

    /// The docker config, for messages.
    pub fn docker_config_name(&self) -> String {
        match &self.docker_config {
            Some(file) => format!("--docker-config {}", file.display()),
            None => "docker config".to_owned(),
        }
    }

    /// The registries of the targets of rewrites, at the addresses that originals may have, without credentials: a target has
    /// the login that Pods get for it, or none.
    pub fn rewrite_targets<'b>(
        &self,
        allowed: &OriginalsArgs,
        backups: impl IntoIterator<Item = &'b str>,
    ) -> Result<Registries, UsageError> {
        let hosts = backups.into_iter().map(str::to_owned).collect();
        self.registries_in(Credentials::anonymous(), allowed.addresses(hosts))
    }

    fn registries_in(
        &self,
        credentials: Credentials,
        options: RegistryOptions,
    ) -> Result<Registries, UsageError> {
        let certificates = self.ca_file.iter().map(|file| {
            std::fs::read(file)
                .map_err(|error| UsageError(format!("--ca-file {}: {error}", file.display())))
        });
        let options = RegistryOptions {
            credentials,
            insecure_hosts: self.insecure_registry.iter().cloned().collect(),
            extra_root_certificates_pem: certificates.collect::<Result<_, _>>()?,
            certificates: self.certs_dir.clone(),
            allow_private_redirects: self.allow_private_redirects,
            timeouts: Timeouts {
                first_byte: self.first_byte_timeout,
                ..Timeouts::default()
            },
            user_agent: concat!("mirror-sidecar/", env!("CARGO_PKG_VERSION")).into(),
            advice,
            ..options
        };
        Registries::new(options).map_err(|error| match error {
            SetupError::Certificate { number, reason } => {
                let file = number
                    .checked_sub(1)
                    .and_then(|index| self.ca_file.get(index));
                let file = file.map_or_else(String::new, |file| format!(" {}", file.display()));
                UsageError(format!("--ca-file{file}: {reason}"))
            }
            SetupError::HostCertificates { .. } => UsageError(format!("--certs-dir: {error}")),
            error => UsageError(error.to_string()),
        })
    }
}

/// The hosts of backups, from which originals may be read.
struct BackupHosts {
    current: BTreeSet<String>,
    /// Current and former hosts that are read anonymously.
    without_login: BTreeSet<String>,
}

impl BackupHosts {
    fn of<'b>(
        allowed: &OriginalsArgs,
        backups: impl IntoIterator<Item = &'b BackupLocations>,
    ) -> Self {
        let mut current = BTreeSet::new();
        let mut without_login = BTreeSet::new();
        for locations in backups {
            current.insert(locations.current().registry().to_owned());
            let former = locations.former_registries();
            without_login.extend(former.into_iter().map(str::to_owned));
        }
        without_login.extend(current.iter().cloned());
        if allowed.docker_config_reads_backup_host {
            without_login.clear();
        }
        Self {
            current,
            without_login,
        }
    }
}

impl OriginalsArgs {
    /// The options with the private addresses that may be read, for backups at these hosts, which are accessed anyway.
    fn addresses(&self, mut hosts: BTreeSet<String>) -> RegistryOptions {
        let mut networks = Vec::new();
        for private in &self.private_registry {
            match private {
                PrivateRegistry::Host(host) => {
                    hosts.insert(host.clone());
                }
                PrivateRegistry::Network(network) => networks.push(*network),
            }
        }
        RegistryOptions {
            private_hosts: PrivateHosts::Only(hosts),
            private_networks: networks,
            ..RegistryOptions::default()
        }
    }
}

/// Words the remedies of the engine with the flags that set them.
fn advice(remedy: &Remedy<'_>) -> String {
    match remedy {
        Remedy::PlainHttp => "use --insecure-registry".into(),
        Remedy::TrustAuthority => {
            "pass its CA with --ca-file, or as ca.crt in --certs-dir".into()
        }
        Remedy::TrustCertificate => {
            "pass this certificate with --ca-file, or use one with CA:FALSE".into()
        }
        Remedy::ClientCertificate => "put client.cert and client.key into the folder of this registry in --certs-dir, or renew them".into(),
        Remedy::PrivateHost(host) => format!(
            "the operator can allow it with --private-registry {host}, or with --insecure-registry for plain HTTP"
        ),
        Remedy::PrivateAddress { host, network } => format!(
            "the operator can allow the registry with --private-registry {host}, or the address with --private-registry \
             {network}"
        ),
        Remedy::PrivateTarget { network } => format!(
            "the operator can allow it with --private-registry {network}, or with --allow-private-redirects"
        ),
        Remedy::PrivateRedirects => {
            "the operator can allow it with --allow-private-redirects".into()
        }
        Remedy::RaiseMaxBytes => "the operator can raise --max-image-size".into(),
        remedy => remedy.to_string(),
    }
}

/// Checks the file to report errors early. The engine reads it again whenever it needs credentials.
pub fn check_docker_config(file: &Path, flag: &str) -> Result<(), UsageError> {
    let wrong = |reason: String| UsageError(format!("{flag} {}: {reason}", file.display()));
    let text = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&text)
        .map(|_| ())
        // The content is secret.
        .map_err(|error| {
            wrong(format!(
                "not a JSON object at line {}, column {}",
                error.line(),
                error.column()
            ))
        })
}

fn first_byte_timeout(text: &str) -> Result<Duration, String> {
    let timeout = super::duration(text)?;
    if timeout.is_zero() {
        return Err("must be longer than 0s".into());
    }
    Ok(timeout)
}

/// Parses a registry host or a network in CIDR notation.
fn private_registry(text: &str) -> Result<PrivateRegistry, &'static str> {
    if text.contains('/') {
        let network = text.parse::<IpNet>().map_err(
            |_| "must be the host name of a registry with its port, or a network such as 10.20.0.0/16",
        )?;
        return Ok(PrivateRegistry::Network(network.trunc()));
    }
    host(text).map(PrivateRegistry::Host)
}

fn host(text: &str) -> Result<String, &'static str> {
    let probe = format!("{text}/probe");
    match mirror_contract::ImageRef::parse(&probe) {
        Ok(image) if image.path() == "probe" => Ok(image.host().to_owned()),
        _ => Err("must be the host name of a registry with its port, such as localhost:5000"),
    }
}

/// Parses a limit in bytes. `0` and `none` are no limit.
pub fn size_limit(text: &str) -> Result<SizeLimit, &'static str> {
    const WRONG: &str = "must be a number of bytes, with K, M, G or T (or Ki, Mi, …) for powers of 1024 or KB, MB, … for powers of 1000, such as 20G; 0 or none for no limit";
    if text.eq_ignore_ascii_case("none") {
        return Ok(SizeLimit(None));
    }
    let bytes = bytes(text).ok_or(WRONG)?;
    Ok(SizeLimit((bytes > 0).then_some(bytes)))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};
    use mirror_contract::Backup;
    use rstest::rstest;

    use super::*;
    use crate::args::{Cli, Command, ServeArgs};
    use crate::former_backups::FormerBackups;

    fn serve(flags: &[&str]) -> ServeArgs {
        let all = ["mirror-sidecar", "serve"].iter().chain(flags);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Serve(args) => *args,
            _ => panic!("another command"),
        }
    }

    /// A backup with a former location.
    fn locations(current: &str, former: &str) -> BackupLocations {
        let [current, _] = Backup::with_both_namings(current).unwrap();
        let former = FormerBackups::new(&current, Backup::with_both_namings(former));
        BackupLocations::new(current, former)
    }

    /// Errors of the engine end with a flag that exists.
    #[rstest]
    #[case(Remedy::PlainHttp)]
    #[case(Remedy::TrustAuthority)]
    #[case(Remedy::TrustCertificate)]
    #[case(Remedy::ClientCertificate)]
    #[case(Remedy::PrivateHost("harbor.test"))]
    #[case(Remedy::PrivateAddress { host: "harbor.test", network: "10.0.0.1/32".parse().unwrap() })]
    #[case(Remedy::PrivateTarget { network: "10.0.0.1/32".parse().unwrap() })]
    #[case(Remedy::PrivateRedirects)]
    #[case(Remedy::RaiseMaxBytes)]
    fn remedies_name_flags(#[case] remedy: Remedy<'_>) {
        let text = advice(&remedy);
        let words = text.split([' ', ',']);
        let flags: Vec<_> = words.filter_map(|word| word.strip_prefix("--")).collect();
        assert!(!flags.is_empty(), "{text}");
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        for flag in flags {
            let mut known = serve.get_arguments().filter_map(clap::Arg::get_long);
            assert!(known.any(|known| known == flag), "{text}");
        }
    }

    #[rstest]
    #[case("1", Ok(Some(1)))]
    #[case("2K", Ok(Some(2048)))]
    #[case("512m", Ok(Some(512 << 20)))]
    #[case("20G", Ok(Some(20 << 30)))]
    #[case("1T", Ok(Some(1 << 40)))]
    #[case("0", Ok(None))]
    #[case("0G", Ok(None))]
    #[case("none", Ok(None))]
    #[case("", Err(()))]
    #[case("G", Err(()))]
    #[case("-1", Err(()))]
    #[case("1.5G", Err(()))]
    #[case("20GB", Ok(Some(20_000_000_000)))]
    #[case("20gb", Ok(Some(20_000_000_000)))]
    #[case("20Gi", Ok(Some(20 << 30)))]
    #[case("20GiB", Ok(Some(20 << 30)))]
    #[case("512B", Ok(Some(512)))]
    #[case("1KG", Err(()))]
    #[case("1Gib2", Err(()))]
    #[case("1é", Err(()))]
    #[case("99999999999T", Err(()))]
    fn sizes(#[case] text: &str, #[case] limit: Result<Option<u64>, ()>) {
        assert_eq!(size_limit(text).map(|limit| limit.0).map_err(drop), limit);
    }

    #[test]
    fn images_are_limited_to_50_gib_by_default() {
        let limit = |flags: &[&str]| serve(flags).originals.max_image_size.0;
        assert_eq!(limit(&[]), Some(50 << 30));
        assert_eq!(limit(&["--max-image-size=none"]), None);
    }

    #[rstest]
    #[case("10.20.0.0/16", true)]
    #[case("fd00::/8", true)]
    #[case("harbor.svc:8443", true)]
    #[case("10.20.0.0/33", false)]
    #[case("10.20/16", false)]
    #[case("harbor.svc/16", false)]
    fn private_registries(#[case] text: &str, #[case] valid: bool) {
        assert_eq!(private_registry(text).is_ok(), valid);
    }

    #[rstest]
    #[case(&[], "ghcr.io", true)]
    #[case(&[], "10.0.0.9:5000", true)]
    #[case(&[], "10.0.0.9:22", false)]
    #[case::a_former_host(&[], "10.0.0.8:5000", false)]
    #[case(&[], "localhost:8080", false)]
    #[case(&[], "harbor.harbor.svc", false)]
    #[case(&["--private-registry=harbor.harbor.svc,nas.local:5000"], "nas.local:5000", true)]
    #[case(&["--private-registry=harbor.harbor.svc"], "harbor.harbor.svc:443", true)]
    #[case(&["--insecure-registry=localhost:8080"], "localhost:8080", true)]
    #[case(&["--private-registry=10.20.0.0/16,harbor.harbor.svc"], "10.20.3.4:8443", true)]
    #[case(&["--private-registry=10.20.0.0/16,harbor.harbor.svc"], "harbor.harbor.svc", true)]
    #[case(&["--private-registry=10.20.0.0/16"], "10.21.3.4:8443", false)]
    #[case(&["--private-registry=0.0.0.0/0"], "169.254.169.254", false)]
    #[case(&["--private-registry=169.254.169.254/32"], "169.254.169.254:80", true)]
    #[case(&["--private-registry=169.254.169.254"], "169.254.169.254", true)]
    #[case(&[], "service.namespace", false)]
    fn originals_are_not_read_from_private_hosts(
        #[case] flags: &[&str],
        #[case] host: &str,
        #[case] allowed: bool,
    ) {
        let args = serve(flags);
        let backup = locations("10.0.0.9:5000", "10.0.0.8:5000/old");
        let originals = args.sources.originals(&args.originals, [&backup]).unwrap();
        let answer = originals.get(host).map_err(|error| error.to_string());
        assert_eq!(answer.is_ok(), allowed, "{answer:?}");
        if let Err(error) = answer {
            assert!(
                error.contains(&format!("--private-registry {host}")),
                "{error}"
            );
        }
        let targets = args.sources.registries(Credentials::anonymous()).unwrap();
        assert!(targets.get(host).is_ok());
    }
}
