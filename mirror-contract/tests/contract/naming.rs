//! Names of copies: legal, never shared by two images, and readable back.

use mirror_contract::naming::{BackupError, NamingError, anchor_tag, anchored_digest};
use mirror_contract::{Backup, Digest, ImageRef, Naming, Relation, Unsupported};
use oci_spec::distribution::Reference;
use proptest::prelude::*;
use rstest::rstest;

const HEX: &str = "4cb2b9019f1757be8482419002cb7afe028fdba35d47958829e4cfeaf6246d80";

fn backup(naming: Naming) -> Backup {
    Backup::new("ghcr.io", "acme", naming).unwrap()
}

#[rstest]
#[case::hub(
    "nginx:1.27",
    "docker.io-library-nginx:1.27",
    "docker.io/library/nginx:1.27"
)]
#[case::hyphen("ghcr.io/a-b/c:1", "ghcr.io-a--b-c:1", "ghcr.io/a-b/c:1")]
#[case::hyphens(
    "ghcr.io/a--b/c---d:1",
    "ghcr.io-a----b-c------d:1",
    "ghcr.io/a--b/c---d:1"
)]
#[case::port("localhost:5000/app:1", "localhost_5000-app:1", "localhost_5000/app:1")]
#[case::hyphen_in_host(
    "my-reg.io:5000/app:1",
    "my--reg.io_5000-app:1",
    "my-reg.io_5000/app:1"
)]
#[case::underscores("ghcr.io/a__b/c_1:x", "ghcr.io-a__b-c_1:x", "ghcr.io/a__b/c_1:x")]
fn is_called(#[case] image: &str, #[case] flat: &str, #[case] nested: &str) {
    let image = ImageRef::parse(image).unwrap();
    for (naming, name) in [(Naming::Flat, flat), (Naming::Nested, nested)] {
        let copy = backup(naming).target(&image).unwrap();
        assert_eq!(copy.to_string(), format!("ghcr.io/acme/{name}"));
        assert_eq!(backup(naming).source(&copy), Some(image.clone()));
    }
}

#[test]
fn pinned_images_keep_tag_and_digest() {
    let text = format!("nginx:1.27@sha256:{HEX}");
    let copy = backup(Naming::Flat)
        .target(&ImageRef::parse(&text).unwrap())
        .unwrap();
    assert_eq!(
        copy.to_string(),
        format!("ghcr.io/acme/docker.io-library-nginx:1.27@sha256:{HEX}")
    );
}

#[test]
fn anchors_lead_back_to_the_digest() {
    let digest = format!("sha256:{HEX}");
    let anchor = anchor_tag(&Digest::parse(&digest).unwrap());
    assert_eq!(anchor, format!("sha256-{HEX}.mirror"));
    assert_eq!(anchored_digest(&anchor).unwrap().to_string(), digest);
    let copy = format!("ghcr.io/acme/quay.io-app:{anchor}");
    let source = backup(Naming::Flat).source(&ImageRef::parse(&copy).unwrap());
    assert_eq!(source.unwrap().to_string(), format!("quay.io/app@{digest}"));
}

#[test]
fn a_long_digest_has_a_cut_anchor() {
    let digest = format!("sha512:{}", "a".repeat(128));
    let anchor = anchor_tag(&Digest::parse(&digest).unwrap());
    assert_eq!(anchor.len(), 128);
    assert!(anchor.ends_with("a.mirror"));
    assert_eq!(anchored_digest(&anchor), None);
}

/// Otherwise whoever owns the original could displace the anchor of another digest.
#[test]
fn an_original_cannot_be_tagged_like_an_anchor() {
    let text = format!("quay.io/app:sha256-{HEX}.mirror");
    assert_eq!(
        backup(Naming::Flat).target(&ImageRef::parse(&text).unwrap()),
        Err(Unsupported::ReservedTag)
    );
}

#[rstest]
#[case::inside("ghcr.io/acme/app:1", true)]
#[case::deep_inside("ghcr.io/acme/a/b:1", true)]
#[case::longer_name("ghcr.io/acme2/app:1", false)]
#[case::the_prefix_itself("ghcr.io/acme:1", false)]
#[case::elsewhere("docker.io/acme/app:1", false)]
#[case::default_port("ghcr.io:443/acme/app:1", true)]
#[case::default_port_with_zeros("ghcr.io:0443/acme/app:1", true)]
#[case::another_port("ghcr.io:8443/acme/app:1", false)]
fn the_backup_knows_its_own(#[case] image: &str, #[case] inside: bool) {
    let image = ImageRef::parse(image).unwrap();
    assert_eq!(backup(Naming::Flat).contains(&image), inside);
}

#[rstest]
#[case::registry("GHCR.io", "acme", None)]
#[case::no_repository("registry.example.com:5000", "", None)]
#[case::deep("ghcr.io", "a/b/c", None)]
#[case::not_a_registry("ghcr", "acme", Some(BackupError::Registry))]
#[case::url("https://ghcr.io", "acme", Some(BackupError::Registry))]
#[case::upper_case("ghcr.io", "Acme", Some(BackupError::Repository))]
#[case::trailing_slash("ghcr.io", "acme/", Some(BackupError::Repository))]
#[case::hub_without_account("docker.io", "", Some(BackupError::Repository))]
fn a_backup_is_checked(
    #[case] registry: &str,
    #[case] repository: &str,
    #[case] error: Option<BackupError>,
) {
    assert_eq!(Backup::new(registry, repository, Naming::Flat).err(), error);
}

#[test]
fn a_repository_leaves_room_for_names() {
    let long = "a".repeat(200);
    assert_eq!(
        Backup::new("ghcr.io", &long, Naming::Flat),
        Err(BackupError::Repository)
    );
}

#[rstest]
#[case(Naming::Flat)]
#[case(Naming::Nested)]
fn names_over_the_limit_are_cut_and_hashed(#[case] naming: Naming) {
    let image = |last: char| format!("quay.io/{}{last}:1", "a-b/".repeat(62));
    let copy = |last: char| {
        let image = image(last);
        backup(naming)
            .target(&ImageRef::parse(&image).unwrap())
            .unwrap()
    };
    let (one, other) = (copy('x'), copy('y'));
    assert_ne!(one, other);
    assert!(one.path().starts_with("acme/quay.io__"));
    assert_eq!(backup(naming).source(&one), None);
    let name = format!("{}/{}", one.host(), one.path());
    assert!(name.len() <= 255, "{} characters", name.len());
    assert!(name.len() > 240, "cut more than needed: {}", name.len());
}

/// One below, at, and one beyond the limit: the last name that is readable back, and the first that is not.
#[rstest]
#[case(Naming::Flat)]
#[case(Naming::Nested)]
fn the_limit_is_inclusive(#[case] naming: Naming) {
    let room = 255 - "ghcr.io/acme/quay.io/".len();
    for (length, readable) in [(room - 1, true), (room, true), (room + 1, false)] {
        let text = format!("quay.io/{}:1", "a".repeat(length));
        let image = ImageRef::parse(&text).unwrap();
        let copy = backup(naming).target(&image).unwrap();
        assert_eq!(backup(naming).source(&copy).is_some(), readable);
    }
}

#[test]
fn a_nested_repository_is_no_flat_copy() {
    let copy = ImageRef::parse("ghcr.io/acme/quay.io/app:1").unwrap();
    assert_eq!(backup(Naming::Flat).source(&copy), None);
    assert!(backup(Naming::Nested).source(&copy).is_some());
}

#[test]
fn a_copy_is_known_with_the_default_port_of_its_registry() {
    let image = ImageRef::parse("quay.io/a/b:1").unwrap();
    for (registry, name) in [("ghcr.io", "ghcr.io:443"), ("ghcr.io:443", "ghcr.io")] {
        let backup = Backup::new(registry, "acme", Naming::Flat).unwrap();
        let copy = format!("{name}/acme/quay.io-a-b:1");
        let copy = ImageRef::parse(&copy).unwrap();
        assert!(backup.contains(&copy));
        assert_eq!(backup.source(&copy), Some(image.clone()));
    }
}

fn naming() -> impl Strategy<Value = Naming> {
    prop_oneof![Just(Naming::Flat), Just(Naming::Nested)]
}

const ECR: &str = "123456789012.dkr.ecr.eu-central-1.amazonaws.com";

/// A place in a registry with the grammar of the specification, and one in Amazon ECR.
fn any_backup() -> impl Strategy<Value = Backup> {
    let registry = prop_oneof![Just("ghcr.io"), Just(ECR), Just("public.ecr.aws")];
    (registry, naming())
        .prop_map(|(registry, naming)| Backup::new(registry, "acme", naming).unwrap())
}

/// `(?:[a-z0-9]+(?:[._-][a-z0-9]+)*/)*[a-z0-9]+(?:[._-][a-z0-9]+)*`, 2 to 256 characters, 205 in ECR Public.
fn is_accepted(copy: &ImageRef<'_>) -> bool {
    let is_word = |word: &str| {
        let mut bytes = word.bytes();
        !word.is_empty() && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let max = if copy.host() == "public.ecr.aws" {
        205
    } else {
        256
    };
    let components = copy.path().split('/');
    let mut words = components.flat_map(|component| component.split(['.', '_', '-']));
    copy.host() == "ghcr.io" || copy.path().len() <= max && words.all(is_word)
}

#[rstest]
#[case::hub("nginx:1.27", "docker.io-library-nginx", "docker.io/library/nginx")]
#[case::hyphen(
    "quay.io/jetstack/cert-manager-controller:v1",
    "quay.io-jetstack-cert-sep2-manager-sep2-controller",
    "quay.io/jetstack/cert-manager-controller"
)]
#[case::doubled("ghcr.io/a/b__c:1", "ghcr.io-a-b_sep2_c", "ghcr.io/a/b_sep2_c")]
#[case::hyphens("ghcr.io/a---b:1", "ghcr.io-a-sep6-b", "ghcr.io/a-sep3-b")]
#[case::punycode("xn--a.io/b:1", "xn-sep4-a.io-b", "xn-sep2-a.io/b")]
#[case::port("localhost:5000/x:1", "localhost_5000-x", "localhost_5000/x")]
#[case::the_word_itself(
    "ghcr.io/a-sep2-b/sepp7:1",
    "ghcr.io-a-sep2-sepp2-sep2-b-seppp7",
    "ghcr.io/a-sepp2-b/seppp7"
)]
#[case::other_words(
    "ghcr.io/sep/september/sep2x:1",
    "ghcr.io-sep-september-sep2x",
    "ghcr.io/sep/september/sep2x"
)]
fn is_called_in_ecr(#[case] image: &str, #[case] flat: &str, #[case] nested: &str) {
    let image = ImageRef::parse(image).unwrap();
    for (naming, name) in [(Naming::Flat, flat), (Naming::Nested, nested)] {
        let backup = Backup::new(ECR, "acme", naming).unwrap();
        let copy = backup.target(&image).unwrap();
        assert_eq!(copy.path(), format!("acme/{name}"));
        assert!(is_accepted(&copy), "{copy}");
        assert_eq!(backup.original(&copy), Some(image.clone()));
        assert!(Backup::any_relation(&copy, &image).is_some());
    }
}

/// Names that ECR cannot have, or that no image has.
#[rstest]
#[case("quay.io/a__b")]
#[case("quay.io/a--b")]
#[case("quay.io/a-sep1-b")]
#[case("quay.io/a-sep02-b")]
#[case("quay.io/a_sep3_b")]
#[case("quay.io/a.sep2.b")]
#[case("quay.io/a-sep2_b")]
#[case("quay.io/sep2-b")]
#[case("quay.io/a-sep2")]
#[case("quay.io/a-sep99999999999999999999-b")]
fn other_names_in_ecr_have_no_source(#[case] name: &str) {
    let backup = Backup::new(ECR, "acme", Naming::Nested).unwrap();
    let copy = format!("{ECR}/acme/{name}:1");
    assert_eq!(backup.source(&ImageRef::parse(&copy).unwrap()), None);
}

#[rstest]
#[case("ghcr.io", Naming::Flat)]
#[case("registry.example.com:5000", Naming::Flat)]
#[case("docker.io", Naming::Flat)]
#[case("quay.io", Naming::Flat)]
#[case(ECR, Naming::Nested)]
#[case(
    "123456789012.DKR.ecr-fips.us-gov-west-1.amazonaws.com:443",
    Naming::Nested
)]
#[case("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", Naming::Nested)]
#[case("123456789012.dkr-ecr.eu-west-1.on.aws", Naming::Nested)]
#[case("public.ecr.aws", Naming::Nested)]
#[case("dkr.ecr.example.com", Naming::Flat)]
fn a_registry_gets_a_naming_that_fits(#[case] registry: &str, #[case] naming: Naming) {
    assert_eq!(Naming::auto(registry), naming);
    let backup = Backup::new(registry, "acme", naming).unwrap();
    assert_eq!(backup.check_naming(), Ok(()));
}

#[rstest]
#[case("docker.io", "acme", Naming::Nested, NamingError::Nested)]
#[case("index.docker.io:443", "acme", Naming::Nested, NamingError::Nested)]
#[case(
    "docker.io",
    "acme/mirror",
    Naming::Flat,
    NamingError::NestedRepository
)]
#[case(ECR, "acme--mirror", Naming::Nested, NamingError::DoubleSeparator)]
fn names_that_a_registry_refuses_are_an_error(
    #[case] registry: &str,
    #[case] repository: &str,
    #[case] naming: Naming,
    #[case] error: NamingError,
) {
    let backup = Backup::new(registry, repository, naming).unwrap();
    assert_eq!(backup.check_naming(), Err(error));
}

proptest! {
    #[test]
    fn every_name_is_legal_and_readable_back(text in crate::support::image(), backup in any_backup()) {
        let image = ImageRef::parse(&text).unwrap();
        let copy = backup.target(&image).unwrap();
        let oracle: Reference = copy.to_string().parse().unwrap();
        prop_assert_eq!(oracle.repository(), copy.path());
        prop_assert!(is_accepted(&copy), "{}", copy);
        prop_assert!(backup.contains(&copy));
        prop_assert_eq!(backup.source(&copy), Some(image));
    }

    /// The generators give few letters, so that nearly equal names are common.
    #[test]
    fn two_images_never_share_a_name(
        one in "[ab]{1,2}\\.io(:1)?/[ab]{1,2}((-{1,3}|/|_|__|\\.)([ab1]{1,2}|sepp?[23])){0,4}",
        other in "[ab]{1,2}\\.io(:1)?/[ab]{1,2}((-{1,3}|/|_|__|\\.)([ab1]{1,2}|sepp?[23])){0,4}",
        backup in any_backup(),
    ) {
        let (one, other) = (ImageRef::parse(&one).unwrap(), ImageRef::parse(&other).unwrap());
        let name = |image| backup.target(image).unwrap();
        prop_assert_eq!(name(&one) == name(&other), one == other);
    }

    #[test]
    fn no_copy_name_reads_as_two_images(name in "[ab](\\.io)?((-{1,4}|/|_|__)([ab1]|sepp?[0-4])){0,6}", backup in any_backup()) {
        let text = format!("{}/acme/{name}:1", backup.registry());
        let Ok(copy) = ImageRef::parse(&text) else { return Ok(()) };
        if let Some(source) = backup.source(&copy) {
            prop_assert_eq!(backup.target(&source), Ok(copy));
        }
    }

    #[test]
    fn shortened_names_are_legal_and_never_a_plain_one(
        part in crate::support::component(), count in 30usize..120, backup in any_backup(),
    ) {
        let path = vec![part; count].join("/");
        let text = format!("quay.io/{path}:1");
        let Ok(image) = ImageRef::parse(&text) else { return Ok(()) };
        let copy = backup.target(&image).unwrap();
        prop_assert!(copy.to_string().parse::<Reference>().is_ok());
        prop_assert!(is_accepted(&copy), "{}", copy);
        prop_assert!(copy.host().len() + 1 + copy.path().len() <= 255);
        let back = backup.source(&copy);
        prop_assert!(back.is_none() || back == Some(image));
    }
}

fn relation(backup: &Backup, copy: &str, original: &str) -> Option<Relation> {
    let (copy, original) = (
        ImageRef::parse(copy).unwrap(),
        ImageRef::parse(original).unwrap(),
    );
    let relation = backup.relation(&copy, &original);
    // What a backup knows, some backup knows.
    assert!(relation.is_none() || Backup::any_relation(&copy, &original) == relation);
    relation
}

#[rstest]
#[case::tag(
    "ghcr.io/acme/docker.io-library-nginx:1",
    "nginx:1",
    Some(Relation::Exact)
)]
#[case::no_tag(
    "ghcr.io/acme/docker.io-library-nginx",
    "docker.io/nginx",
    Some(Relation::Exact)
)]
#[case::digest(
    "ghcr.io/acme/docker.io-library-nginx@DIGEST",
    "nginx@DIGEST",
    Some(Relation::Exact)
)]
#[case::both(
    "ghcr.io/acme/docker.io-library-nginx:1@DIGEST",
    "nginx:1@DIGEST",
    Some(Relation::Exact)
)]
#[case::pinned(
    "ghcr.io/acme/docker.io-library-nginx:1@DIGEST",
    "nginx:1",
    Some(Relation::Pinned)
)]
#[case::digest_lost("ghcr.io/acme/docker.io-library-nginx:1", "nginx:1@DIGEST", None)]
#[case::tag_lost("ghcr.io/acme/docker.io-library-nginx@DIGEST", "nginx:1", None)]
#[case::another_tag("ghcr.io/acme/docker.io-library-nginx:2", "nginx:1", None)]
#[case::another_image("ghcr.io/acme/docker.io-library-redis:1", "nginx:1", None)]
#[case::longer_name("ghcr.io/acme/docker.io-library-nginx-x:1", "nginx:1", None)]
#[case::longer_prefix("ghcr.io/acme/x/docker.io-library-nginx:1", "nginx:1", None)]
#[case::another_prefix("ghcr.io/evil/docker.io-library-nginx:1", "nginx:1", None)]
#[case::another_registry("evil.example/acme/docker.io-library-nginx:1", "nginx:1", None)]
#[case::another_naming("ghcr.io/acme/docker.io/library/nginx:1", "nginx:1", None)]
#[case::anchor(
    "ghcr.io/acme/docker.io-library-nginx:sha256-HEX.mirror",
    "nginx:sha256-HEX.mirror",
    None
)]
fn a_copy_has_exactly_one_name(
    #[case] copy: &str,
    #[case] original: &str,
    #[case] expected: Option<Relation>,
) {
    let digest = |text: &str| {
        text.replace("DIGEST", &format!("sha256:{HEX}"))
            .replace("HEX", HEX)
    };
    let found = relation(&backup(Naming::Flat), &digest(copy), &digest(original));
    assert_eq!(found, expected);
}

#[rstest]
#[case::flat("evil.example/a/b/docker.io-library-nginx:1", true)]
#[case::nested("evil.example/docker.io/library/nginx:1", true)]
#[case::another("evil.example/docker.io-library-redis:1", false)]
#[case::suffix("evil.example/docker.io-library-nginx-x:1", false)]
#[case::no_name("evil.example/backdoor:1", false)]
fn a_name_of_any_backup_is_recognised(#[case] copy: &str, #[case] is_copy: bool) {
    let (copy, nginx) = (
        ImageRef::parse(copy).unwrap(),
        ImageRef::parse("nginx:1").unwrap(),
    );
    assert_eq!(Backup::any_relation(&copy, &nginx).is_some(), is_copy);
}

#[rstest]
#[case(Naming::Flat)]
#[case(Naming::Nested)]
fn shortened_names_are_recognised(#[case] naming: Naming) {
    let path = |last: char| format!("ghcr.io/{}/{last}", ["team-of-many"; 18].join("/"));
    let original = path('a');
    let image = ImageRef::parse(&original).unwrap();
    let copy = backup(naming).target(&image).unwrap().to_string();
    assert!(copy.contains("__"), "{copy}");
    assert_eq!(
        relation(&backup(naming), &copy, &original),
        Some(Relation::Exact)
    );
    assert_eq!(relation(&backup(naming), &copy, &path('b')), None);
}

/// After a change of naming, each name still leads to one original, and none is taken for the other.
#[rstest]
#[case("docker.io/library/nginx:1")]
#[case("ghcr.io/a-b/c:2")]
#[case("localhost:5000/x/y:3")]
fn copies_under_either_naming_lead_to_their_original(#[case] image: &str) {
    let image = ImageRef::parse(image).unwrap();
    let [flat, nested] = Backup::with_both_namings("registry.example/acme").unwrap();
    assert_eq!(flat.with_other_naming(), nested);
    for (backup, other) in [(&flat, &nested), (&nested, &flat)] {
        let copy = backup.target(&image).unwrap();
        assert_eq!(backup.original(&copy).as_ref(), Some(&image));
        assert_eq!(other.original(&copy), None);
    }
}

/// What is no copy of anything, or the copy of a copy, has no original.
#[rstest]
#[case("registry.example/acme/tool:1")]
#[case("registry.example/acme/registry.example-acme-x:1")]
#[case("registry.example/other/docker.io-library-nginx:1")]
fn other_images_have_no_original(#[case] image: &str) {
    let image = ImageRef::parse(image).unwrap();
    let [flat, _] = Backup::with_both_namings("registry.example/acme").unwrap();
    assert_eq!(flat.original(&image), None);
}

#[rstest]
#[case("registry.example/", false)]
#[case("Registry.example/acme", false)]
#[case("acme/mirror", false)]
#[case("registry.example", true)]
#[case("registry.example:5000/a/b", true)]
fn a_place_of_a_backup_is_a_registry_and_perhaps_a_repository(
    #[case] place: &str,
    #[case] is_one: bool,
) {
    assert_eq!(Backup::with_both_namings(place).is_some(), is_one);
}
