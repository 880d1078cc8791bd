mod schema;

use std::num::NonZeroUsize;
use std::path::Path;

use mirror_contract::{BackupName, Naming};
use rstest::rstest;

use super::parse::{MAX_BACKUPS, Parsed, parse};
use super::*;

/// The folder `FILES` of these texts: a password, a user, a docker config, an empty file.
pub(super) fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        ("password", "s3cret\n"),
        ("user", "robot\n"),
        ("config.json", r#"{"auths": {}}"#),
        ("broken.json", "["),
        ("empty", ""),
    ];
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

pub(super) fn in_folder(text: &str, folder: &Path) -> String {
    text.replace("FILES", &folder.display().to_string())
}

/// Flags without a backup.
pub(super) fn flags() -> FlagDefaults {
    FlagDefaults {
        backup: None,
        max_image_size: Some(50 << 30),
        parallel_copies: NonZeroUsize::new(4).unwrap(),
        manages_pull_secrets: true,
    }
}

fn flags_with(location: &str, former: &[&str]) -> FlagDefaults {
    let [backup, _] = Backup::with_both_namings(location).unwrap();
    let former = former.iter().copied();
    FlagDefaults {
        backup: Some(BackupConfig {
            origin: BackupOrigin::default(),
            backup,
            former: former.filter_map(Backup::with_both_namings).collect(),
            push: Credentials::anonymous(),
            pull: None,
            max_image_size: None,
            parallel_copies: NonZeroUsize::MIN,
            definition: String::new(),
        }),
        ..flags()
    }
}

fn parsed(text: &str, flags: &FlagDefaults) -> Result<Parsed, Vec<String>> {
    let folder = folder();
    parse(&in_folder(text, folder.path()), flags)
}

/// The first yaml block of the documentation, and a file for each path in it.
fn example(folder: &Path) -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once("```yaml\n").unwrap();
    let (block, _) = rest.split_once("```").unwrap();
    std::fs::write(folder.join("config.json"), r#"{"auths": {}}"#).unwrap();
    let mut text = String::new();
    for line in block.lines() {
        let (key, path) = line.split_once(": /").unwrap_or((line, ""));
        text += key;
        if !path.is_empty() {
            let file = folder.join(if key.ends_with("dockerConfig") {
                "config.json"
            } else {
                "password"
            });
            std::fs::write(folder.join("password"), "s3cret").unwrap();
            text.extend([": ", file.to_str().unwrap()]);
        }
        text += "\n";
    }
    text
}

#[tokio::test]
async fn the_documented_example_is_understood() {
    let folder = tempfile::tempdir().unwrap();
    let text = example(folder.path());
    let Parsed { config, .. } = parse(&text, &flags()).unwrap();
    let locations: Vec<_> = config
        .backups
        .iter()
        .map(|(name, backup)| format!("{name} {}", backup.backup.location()))
        .collect();
    assert_eq!(
        locations,
        [
            "default registry.example.com/backup",
            "team-a harbor.example.com/team-a",
            "team-b harbor.example.com/team-b"
        ]
    );
    // Both on one host, each with its own logins.
    let team = |name| {
        config
            .backups
            .get(&BackupName::parse(name).unwrap())
            .unwrap()
    };
    for (name, user) in [("team-a", "robot-a"), ("team-b", "robot-b")] {
        let found = team(name).push.find("harbor.example.com").await.unwrap();
        let Some(mirror_copy::Credential::Login(login)) = found else {
            panic!("{found:?}");
        };
        assert_eq!(login.username, user);
        assert!(
            team(name)
                .push
                .find("registry.example.com")
                .await
                .unwrap()
                .is_none()
        );
    }
    let team_a = team("team-a");
    assert_eq!(team_a.max_image_size, Some(20 << 30));
    assert_eq!(team_a.parallel_copies.get(), 2);
    assert_eq!(team_a.former.len(), 1);
    let targets = config.targets.iter();
    let targets: Vec<_> = targets.map(|target| target.location.to_string()).collect();
    assert_eq!(targets, ["harbor.example.com/hub"]);
    // Nothing that could be printed is a secret.
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn flags_apply_where_the_file_has_no_key() {
    let text =
        "backups:\n  team-a:\n    registry: 123456789012.dkr.ecr.eu-central-1.amazonaws.com\n";
    let config = parsed(text, &flags_with("ghcr.io/acme", &[]))
        .unwrap()
        .config;
    assert_eq!(
        config.backups.of_default().backup.location(),
        "ghcr.io/acme"
    );
    let (_, team) = config.backups.iter().nth(1).unwrap();
    assert_eq!(team.backup.naming(), Naming::Nested);
    assert_eq!(team.max_image_size, Some(50 << 30));
    assert_eq!(team.parallel_copies.get(), 4);
    assert!(team.pull.is_none());
}

#[rstest]
#[case::same(
    "a.b/x",
    "a.b/x",
    "backups.two: a.b/x has the same location as backups.one (a.b/x)"
)]
#[case::port("a.b/x", "a.b:443/x", "has the same location as backups.one")]
#[case::alias(
    "docker.io/x",
    "registry-1.docker.io/x",
    "has the same location as backups.one"
)]
#[case::inner(
    "a.b/x",
    "a.b/x/y",
    "backups.two: a.b/x/y is inside backups.one (a.b/x)"
)]
#[case::outer(
    "a.b/x/y",
    "a.b/x",
    "backups.one: a.b/x/y is inside backups.two (a.b/x)"
)]
#[case::registry("a.b/x", "a.b", "backups.one: a.b/x is inside backups.two (a.b)")]
#[case::of_flags(
    "flags.b/acme/x",
    "a.b/x",
    "backups.one: flags.b/acme/x is inside --registry (flags.b/acme)"
)]
#[case::around_flags(
    "flags.b",
    "a.b/x",
    "--registry: flags.b/acme is inside backups.one (flags.b)"
)]
#[case::siblings("a.b/x", "a.b/x-y", "")]
#[case::hosts("a.b/x", "a.b:5000/x", "")]
fn overlapping_backups_are_refused(#[case] one: &str, #[case] two: &str, #[case] expected: &str) {
    let backup = |location: &str| {
        let (registry, repository) = location.split_once('/').unwrap_or((location, ""));
        format!("{{registry: '{registry}', repository: '{repository}'}}")
    };
    let text = format!("backups: {{one: {}, two: {}}}", backup(one), backup(two));
    let errors = parsed(&text, &flags_with("flags.b/acme", &[]))
        .err()
        .unwrap_or_default();
    match expected {
        "" => assert_eq!(errors, [""; 0]),
        expected => assert!(
            matches!(&errors[..], [error] if error.contains(expected)),
            "{errors:?}"
        ),
    }
}

#[rstest]
#[case::inside("a.b/x/hub", "targets[a.b/x/hub]: overlaps backups.one (a.b/x)")]
#[case::around("a.b", "targets[a.b]: overlaps backups.one")]
#[case::former("old.b/x", "overlaps backups.one.formerLocations[0] (old.b/x)")]
#[case::former_of_flags("older.b", "overlaps --former-backup (older.b)")]
#[case::other_target("c.d/hub/x", "targets[c.d/hub/x]: overlaps targets[c.d/hub]")]
#[case::no_host("hub/library", "targets[hub/library]: must be a registry")]
#[case::upper_case("C.d/other", "targets[C.d/other]: must be a registry")]
#[case::separate("c.d/quay", "")]
fn targets_are_separate(#[case] target: &str, #[case] expected: &str) {
    let login = "{pull: {username: u, passwordFile: FILES/password}}";
    let text = format!(
        "backups: {{one: {{registry: a.b, repository: x, formerLocations: [old.b/x]}}}}\n\
         targets: {{c.d/hub: {login}, '{target}': {login}}}"
    );
    let flags = flags_with("flags.b/acme", &["older.b"]);
    let errors = parsed(&text, &flags).err().unwrap_or_default();
    match expected {
        "" => assert_eq!(errors, [""; 0]),
        expected => assert!(
            matches!(&errors[..], [error] if error.contains(expected)),
            "{errors:?}"
        ),
    }
}

/// Copies of one backup must not reach another one as if they were its own.
#[rstest]
#[case("one.b/x", true)]
#[case("one.b/x/y", true)]
#[case("flags.b/acme", true)]
#[case("two.b/x", false)]
#[case("one.b", false)]
fn a_former_location_is_in_no_other_backup(#[case] former: &str, #[case] refused: bool) {
    let text = format!(
        "backups: {{one: {{registry: one.b, repository: x}}, two: {{registry: two.b, repository: y, formerLocations: [{former}]}}}}"
    );
    let errors = parsed(&text, &flags_with("flags.b/acme", &[]))
        .err()
        .unwrap_or_default();
    assert_eq!(!errors.is_empty(), refused, "{errors:?}");
    assert!(
        errors
            .iter()
            .all(|error| error.contains("never copied into another"))
    );
}

/// Everybody who may use one of the two backups could pull the copies of the other one.
#[rstest]
#[case::same(
    "old.b/x",
    Some("old.b/x is a former location of backups.one.formerLocations[0], too")
)]
#[case::port(
    "old.b:443/x",
    Some("old.b:443/x is a former location of backups.one.formerLocations[0], too")
)]
#[case::of_flags(
    "older.b",
    Some("older.b is a former location of --former-backup, too")
)]
#[case::inside("old.b/x/y", None)]
#[case::around("old.b", None)]
#[case::beside("old.b/z", None)]
fn a_former_location_is_of_one_backup(#[case] former: &str, #[case] expected: Option<&str>) {
    let text = format!(
        "backups: {{one: {{registry: one.b, formerLocations: [old.b/x]}}, two: {{registry: two.b, formerLocations: ['{former}']}}}}"
    );
    let errors = parsed(&text, &flags_with("flags.b/acme", &["older.b"]))
        .err()
        .unwrap_or_default();
    match expected {
        None => assert_eq!(errors, [""; 0]),
        Some(expected) => assert!(
            matches!(&errors[..], [error] if error.starts_with("backups.two.formerLocations[0]: ") && error.contains(expected)),
            "{errors:?}"
        ),
    }
}

/// Kubelets find one login for each key.
#[rstest]
#[case::docker_hub(
    "a: {registry: docker.io, repository: a, PULL}, b: {registry: docker.io, repository: b, PULL}",
    "c.d: {PULL}",
    "backups.b.pull: backups.a.pull has another login for https://index.docker.io/v1/; on Docker Hub, kubelets use one login"
)]
#[case::docker_hub_in_a_target(
    "a: {registry: docker.io, repository: a, PULL}",
    "docker.io/hub: {PULL}",
    "targets[docker.io/hub].pull: backups.a.pull has another login"
)]
#[case::one_without_a_login(
    "a: {registry: docker.io, repository: a, PULL}, b: {registry: docker.io, repository: b}",
    "",
    ""
)]
#[case::projects(
    "a: {registry: r.example, repository: a, PULL}, b: {registry: r.example, repository: b, PULL}",
    "r.example/c: {PULL}",
    ""
)]
fn logins_go_together(#[case] backups: &str, #[case] targets: &str, #[case] expected: &str) {
    let text =
        format!("backups: {{default: {{registry: a.b}}, {backups}}}\ntargets: {{{targets}}}");
    let text = text.replace("PULL", "pull: {username: u, passwordFile: FILES/password}");
    let errors = parsed(&text, &flags()).err().unwrap_or_default();
    match expected {
        "" => assert_eq!(errors, [""; 0]),
        expected => assert!(
            matches!(&errors[..], [error] if error.starts_with(expected)),
            "{errors:?}"
        ),
    }
}

#[test]
fn the_number_of_logins_is_bounded() {
    let text = |backups: usize, targets: usize| {
        let login = "{username: u, passwordFile: FILES/password}";
        let backups = (0..backups)
            .map(|index| format!("b{index}: {{registry: b{index}.example, pull: {login}}}, "));
        let targets = (0..targets).map(|index| format!("t{index}.example: {{pull: {login}}}, "));
        format!(
            "backups: {{default: {{registry: a.b}}, {}}}\ntargets: {{{}}}",
            backups.collect::<String>(),
            targets.collect::<String>()
        )
    };
    let config = parsed(&text(1, 63), &flags()).unwrap().config;
    assert_eq!(config.pull_logins.iter().count(), 64);
    let errors = parsed(&text(2, 63), &flags()).unwrap_err();
    assert!(
        matches!(&errors[..], [error] if error.contains(".example].pull: 65 logins")),
        "{errors:?}"
    );
}

#[test]
fn a_default_is_defined_once() {
    let file = "backups: {default: {registry: a.b}}";
    let both = parsed(file, &flags_with("flags.b/acme", &[])).unwrap_err();
    assert!(
        matches!(&both[..], [error] if error.starts_with("backups.default: --registry defines")),
        "{both:?}"
    );
    let none = parsed("backups: {team-a: {registry: a.b}}", &flags()).unwrap_err();
    assert!(
        matches!(&none[..], [error] if error.starts_with("backups.default: is required")),
        "{none:?}"
    );
    assert!(parsed(file, &flags()).is_ok());
    assert!(parsed("targets: {}", &flags_with("flags.b", &[])).is_ok());
}

#[test]
fn the_number_of_backups_is_bounded() {
    let text = |count: usize| {
        let backups =
            (0..count).map(|index| format!("  b{index}: {{registry: r{index}.example}}\n"));
        format!("backups:\n{}", backups.collect::<String>())
    };
    let flags = flags_with("flags.b", &[]);
    assert_eq!(
        parsed(&text(MAX_BACKUPS - 1), &flags)
            .unwrap()
            .config
            .backups
            .iter()
            .count(),
        MAX_BACKUPS
    );
    for count in [MAX_BACKUPS, MAX_BACKUPS + 1, 1000] {
        let errors = parsed(&text(count), &flags).unwrap_err();
        assert!(
            matches!(&errors[..], [error] if error.contains("more than 16")),
            "{errors:?}"
        );
    }
}

#[test]
fn pull_secrets_need_a_cluster() {
    let flags = FlagDefaults {
        manages_pull_secrets: false,
        ..flags()
    };
    let text =
        "backups: {default: {registry: a.b, pull: {username: u, passwordFile: FILES/password}}}";
    let errors = parsed(text, &flags).unwrap_err();
    assert!(
        matches!(&errors[..], [error] if error.starts_with("backups.default.pull: needs --kubernetes=on")),
        "{errors:?}"
    );
}

#[test]
fn all_errors_are_reported_and_no_value_is_repeated() {
    let text = r"
backups:
  default: {registry: hunter2, push: {username: 'hunter2:', password: hunter2}, pull: hunter2}
  Team_A: {registry: a.b}
  team-b:
    registry: c.d
    repositroy: hunter2
    naming: hunter2
    maxImageSize: hunter2
    parallelCopies: hunter2
    push: {username: hunter2, passwordFile: hunter2}
target: {}
";
    let errors = parsed(text, &flags()).unwrap_err();
    let expected = [
        "backups.default.registry: the backup registry must be host[:port]",
        "backups.default.push.password: a password is only read from a file",
        "backups.default.push.username: must not be empty and cannot contain a colon",
        "backups.default.pull: must be a mapping",
        "backups.Team_A: the name of a backup must be",
        "backups.team-b.naming: must be auto, flat or nested",
        "backups.team-b.maxImageSize: must be a number of bytes",
        "backups.team-b.parallelCopies: must be a whole number",
        "backups.team-b.push.passwordFile: must be the absolute path of a file",
        "backups.team-b.repositroy: unknown key; use repository",
        "target: unknown key; use targets",
    ];
    for words in expected {
        assert!(
            errors.iter().any(|error| error.starts_with(words)),
            "{words}: {errors:#?}"
        );
    }
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    assert!(!errors.concat().contains("hunter2"), "{errors:#?}");
}

#[rstest]
#[case("backups: [", "not YAML")]
#[case("", "the file is empty")]
#[case("# nothing", "the file is empty")]
#[case(
    "backups: {a: {registry: a.b}, a: {registry: c.d}}",
    "duplicate mapping key: a"
)]
#[case("- backups", "the file: must be a mapping")]
#[case(
    "backups: {default: {registry: a.b, push: {dockerConfig: FILES/broken.json}}}",
    "backups.default.push.dockerConfig: FILES/broken.json: not a JSON object"
)]
#[case(
    "backups: {default: {registry: a.b, push: {username: u, passwordFile: FILES/empty}}}",
    "backups.default.push.passwordFile: FILES/empty: the file is empty"
)]
#[case(
    "backups: {default: {registry: a.b, push: {username: u, passwordFile: FILES/absent}}}",
    "FILES/absent: No such file"
)]
#[case(
    "backups: {default: {registry: docker.io, repository: a, naming: nested}}",
    "backups.default.naming: this registry has no nested"
)]
fn other_errors(#[case] text: &str, #[case] expected: &str) {
    let folder = folder();
    let errors = parse(&in_folder(text, folder.path()), &flags()).unwrap_err();
    let expected = in_folder(expected, folder.path());
    assert!(
        matches!(&errors[..], [error] if error.contains(&expected)),
        "{errors:?}"
    );
}
