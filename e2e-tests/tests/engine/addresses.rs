//! Which addresses are connected to: for registries, and for where they send the engine on to.
//!
//! Names are resolved by a script. 127.0.0.1 stands for a public address, since the tests allow that network; 127.0.0.2 is
//! what must not be reached. Whoever listens there has a certificate for every name.

use crate::support::{PASSWORD, anchor_of, options};
use axum::http::Method;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use mirror_copy::{
    CopyError, CopyOptions, Login, PrivateHosts, Registries, Registry, RegistryError,
    RegistryOptions, Resolver, Retry, Source, TagOrDigest, Target, copy,
};
use rstest::rstest;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use testkit::scripted::{
    Action, Auth, Fake, Image, LocationStyle, descriptor, digest_of, image, noise,
};
use testkit::tls::Tls;

const OUTSIDE: &str = "127.0.0.1";
const INSIDE: &str = "127.0.0.2";

const REGISTRY: &str = "registry.example.com";
const THERE: &str = "there.example.com";
const HARBOR: &str = "harbor.harbor.svc";
const MINIO: &str = "minio.minio.svc";
/// A Service that only the search domain of the Pod finds, although its namespace is called as a public suffix.
const SERVICE: &str = "harbor.dev";

/// What names resolve to, one answer after the other; the last one stays.
#[derive(Default)]
struct Names {
    answers: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    asked: Mutex<Vec<String>>,
}

impl Names {
    fn set(&self, name: &str, answers: &[&[&str]]) {
        let parsed = answers.iter().map(|answer| {
            let addresses = answer.iter().map(|address| address.parse().unwrap());
            addresses.collect()
        });
        let mut all = self.answers.lock().unwrap();
        all.insert(name.to_owned(), parsed.rev().collect());
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Resolver for Names {
    fn resolve(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        self.asked.lock().unwrap().push(name.to_owned());
        let mut all = self.answers.lock().unwrap();
        let is_known = name.trim_end_matches('.') != SERVICE || name == SERVICE;
        let answers = all.get_mut(name.trim_end_matches('.')).filter(|_| is_known);
        let answer = answers.and_then(|answers| match answers.len() {
            0 | 1 => answers.first().cloned(),
            _ => answers.pop(),
        });
        let answer = answer.ok_or_else(|| io::Error::other("no such name"));
        async move { answer }.boxed()
    }
}

/// How the engine comes to `there`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    First,
    Redirect,
    Realm,
    Location,
    ForeignLayer,
}

const WAYS: [Way; 5] = [
    Way::First,
    Way::Redirect,
    Way::Realm,
    Way::Location,
    Way::ForeignLayer,
];

/// A registry outside, a plain one to copy to or from, and two at the same port: outside and inside.
struct World {
    tls: Tls,
    names: Arc<Names>,
    registry: Fake,
    plain: Fake,
    outside: Fake,
    inside: Fake,
}

impl World {
    async fn new() -> Self {
        let names = [REGISTRY, THERE, HARBOR, MINIO, SERVICE, INSIDE].map(str::to_owned);
        let tls = Tls::generate_for(&names).unwrap();
        // A port that is free at one address may be in use at the other.
        let (outside, inside) = loop {
            let outside = Fake::start_tls(&tls).await;
            let inside = format!("{INSIDE}:{}", outside.address.port());
            match Fake::start_tls_at(&inside, &tls).await {
                Ok(inside) => break (outside, inside),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}"),
            }
        };
        let world = Self {
            registry: Fake::start_tls(&tls).await,
            plain: Fake::start().await,
            names: Arc::default(),
            tls,
            outside,
            inside,
        };
        world.names.set(REGISTRY, &[&[OUTSIDE]]);
        for fake in [&world.registry, &world.plain, &world.outside, &world.inside] {
            fake.put_tagged("app", "1", &app());
            fake.set(|knobs| knobs.mount = false);
        }
        for fake in [&world.outside, &world.inside] {
            fake.put_blob("files", &noise(7, 5000));
        }
        world
    }

    /// Somebody else names the registries; the operator allowed nothing but the stand-in for public addresses.
    fn options(&self) -> RegistryOptions {
        let login = Login {
            username: "robot".into(),
            password: PASSWORD.to_owned().into(),
        };
        let mut options = RegistryOptions {
            extra_root_certificates_pem: vec![self.tls.ca_pem().as_bytes().to_vec()],
            private_hosts: PrivateHosts::Only([].into()),
            private_networks: vec![format!("{OUTSIDE}/32").parse().unwrap()],
            resolver: self.names.clone(),
            ..options(&[&self.plain])
        };
        options.credentials =
            std::mem::take(&mut options.credentials).with_login(&self.host(REGISTRY), login);
        options
    }

    /// A name with the port that it is served at.
    fn host(&self, name: &str) -> String {
        let fake = if name == REGISTRY {
            &self.registry
        } else {
            &self.outside
        };
        format!("{name}:{}", fake.address.port())
    }

    /// Goes to `there` in this way; an error if that, or what comes after it, is not possible.
    async fn go(&self, way: Way, there: &str, options: RegistryOptions) -> Result<(), CopyError> {
        let registries = Registries::new(options).unwrap();
        let (registry, plain) = (self.host(REGISTRY), self.plain.host());
        let url = format!("https://{there}");
        let layer = digest_of(&noise(1, 5000));
        let (from, to) = match way {
            Way::First => (there.to_owned(), plain),
            Way::Location => (plain, registry),
            Way::Redirect | Way::Realm | Way::ForeignLayer => (registry, plain),
        };
        match way {
            Way::First => {}
            Way::Redirect => {
                let location = vec![("location", format!("{url}/v2/app/blobs/{layer}"))];
                let redirect = Action::Status(307, location, "");
                let part = format!("/blobs/{layer}");
                self.registry
                    .fault(Method::GET, &part, usize::MAX, redirect);
            }
            Way::Realm => {
                let challenge = format!("Bearer realm=\"{url}/token\",service=\"fake\"");
                self.registry.set(|knobs| {
                    knobs.auth = Auth::Bearer {
                        user: None,
                        expires_in: "300",
                    };
                    knobs.challenges = Some(vec![challenge]);
                });
            }
            Way::Location => {
                self.registry
                    .set(|knobs| knobs.location = LocationStyle::Base(url));
            }
            Way::ForeignLayer => self
                .registry
                .put_tagged("app", "1", &with_foreign_layer(&url)),
        }
        let from = registries
            .get(&from)
            .map_err(|error| refused_by_name(&error))?;
        let source = Source {
            registry: from,
            repository: "app".into(),
            reference: TagOrDigest::parse("1"),
        };
        let target = Target {
            registry: registries.get(&to).unwrap(),
            repository: "copy".into(),
            tag: Some("1".into()),
            anchor: Some(anchor_of),
        };
        let options = CopyOptions {
            foreign_layers: true,
            ..CopyOptions::default()
        };
        copy(&source, &target, &options, &()).await.map(drop)
    }

    /// Where requests arrived: outside, inside.
    fn arrived(&self) -> (bool, bool) {
        (
            !self.outside.log().is_empty(),
            !self.inside.log().is_empty(),
        )
    }
}

/// A copy never begins then.
fn refused_by_name(error: &mirror_copy::SetupError) -> CopyError {
    CopyError::SourceMissing {
        object: error.to_string(),
    }
}

fn app() -> Image {
    image(1, &[noise(1, 5000)])
}

fn with_foreign_layer(url: &str) -> Image {
    let layer = noise(7, 5000);
    let entry = descriptor(
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        &layer,
    );
    let entry = entry.strip_suffix('}').unwrap();
    let at = format!(
        r#"{entry},"urls":["{url}/v2/files/blobs/{}"]}}"#,
        digest_of(&layer)
    );
    let mut app = app();
    let text = String::from_utf8(app.manifest.to_vec()).unwrap();
    app.manifest = text
        .replace("\"layers\":[", &format!("\"layers\":[{at}, "))
        .into();
    app
}

fn registry_error(error: &CopyError) -> &RegistryError {
    match error {
        CopyError::Source(error) | CopyError::Target(error) => error,
        other => panic!("{other}"),
    }
}

/// A private address, each of them for each way.
#[rstest]
#[case::loopback(&[INSIDE])]
#[case::only_private_ones(&[INSIDE, "10.0.0.1", "::1"])]
#[case::metadata(&["169.254.169.254"])]
#[case::shared(&["100.64.0.1"])]
#[case::unique_local(&["fd00::1"])]
#[case::mapped(&["::ffff:127.0.0.2"])]
#[case::nat64(&["64:ff9b::7f00:2"])]
#[case::multicast(&["224.0.0.1"])]
#[tokio::test]
async fn a_name_that_resolves_to_a_private_address_is_not_connected_to(#[case] addresses: &[&str]) {
    for way in WAYS {
        let world = World::new().await;
        world.names.set(THERE, &[addresses]);
        let error = world
            .go(way, &world.host(THERE), world.options())
            .await
            .unwrap_err();
        assert_eq!(world.arrived(), (false, false), "{way:?}");
        let inner = registry_error(&error);
        assert!(
            matches!(inner, RegistryError::Address { .. }),
            "{way:?}: {error}"
        );
        assert_eq!(error.retry(), Retry::Permanent);
        let text = error.to_string();
        assert!(
            text.contains(THERE) && text.contains(addresses[0]),
            "{text}"
        );
        assert!(!text.contains(PASSWORD), "{text}");
        if way == Way::First {
            let hint = format!("allow the private host {}", world.host(THERE));
            assert!(text.contains(&hint), "{text}");
        }
    }
}

#[tokio::test]
async fn of_several_addresses_only_the_public_ones_are_used() {
    for way in WAYS {
        let world = World::new().await;
        world
            .names
            .set(THERE, &[&[INSIDE, "::1", OUTSIDE, "10.0.0.1"]]);
        // Of all ways but one it is known that the copy succeeds; the token is of another registry.
        let result = world.go(way, &world.host(THERE), world.options()).await;
        assert_eq!(world.arrived(), (true, false), "{way:?} {result:?}");
        assert!(
            result.is_ok() || matches!(way, Way::Realm | Way::Location),
            "{way:?} {result:?}"
        );
    }
}

#[tokio::test]
async fn an_allowed_network_is_reached_in_all_ways() {
    for way in WAYS {
        let world = World::new().await;
        world.names.set(THERE, &[&[INSIDE]]);
        let mut options = world.options();
        options
            .private_networks
            .push("127.0.0.2/31".parse().unwrap());
        let result = world.go(way, &world.host(THERE), options).await;
        assert_eq!(world.arrived(), (false, true), "{way:?} {result:?}");
    }
}

/// What the operator allowed for its own sake is no place for others to send us to, and it gets no request with a login.
#[tokio::test]
async fn an_allowed_name_is_allowed_for_itself_alone() {
    for way in WAYS {
        for name in [THERE, HARBOR] {
            let world = World::new().await;
            world.names.set(name, &[&[INSIDE]]);
            let mut options = world.options();
            options.private_hosts = PrivateHosts::Only([world.host(name)].into());
            let result = world.go(way, &world.host(name), options).await;
            let expected = way == Way::First;
            assert_eq!(
                world.arrived(),
                (false, expected),
                "{way:?} {name} {result:?}"
            );
            assert_eq!(result.is_ok(), expected);
        }
    }
}

#[tokio::test]
async fn private_redirects_can_be_allowed_but_not_to_metadata() {
    for way in WAYS.into_iter().filter(|way| *way != Way::First) {
        for (address, expected) in [
            (INSIDE, true),
            ("169.254.169.254", false),
            ("fd00:ec2::254", false),
        ] {
            let world = World::new().await;
            world.names.set(THERE, &[&[address]]);
            let mut options = world.options();
            options.allow_private_redirects = true;
            let result = world.go(way, &world.host(THERE), options).await;
            assert_eq!(
                world.arrived(),
                (false, expected),
                "{way:?} {address} {result:?}"
            );
        }
    }
}

/// Literal addresses are not resolved, and a name can hold a search domain of the Pod.
#[rstest]
#[case(INSIDE)]
#[case("[::ffff:127.0.0.2]")]
#[case("0x7f.0.0.2")]
#[case("2130706434")]
#[case("localhost")]
#[case("minio.minio")]
#[case(MINIO)]
#[tokio::test]
async fn a_literal_address_or_private_name_is_not_connected_to(#[case] host: &str) {
    for way in WAYS {
        let world = World::new().await;
        world.names.set(host, &[&[INSIDE]]);
        let error = world
            .go(way, &world.host(host), world.options())
            .await
            .unwrap_err();
        assert_eq!(world.arrived(), (false, false), "{way:?} {error}");
        assert!(!error.retry().is_transient(), "{way:?} {error}");
    }
}

/// A registry cannot choose a login for us, not even for itself.
#[tokio::test]
async fn an_address_with_a_login_is_refused() {
    for way in WAYS.into_iter().filter(|way| *way != Way::First) {
        for name in [THERE, REGISTRY] {
            let world = World::new().await;
            world.names.set(THERE, &[&[OUTSIDE]]);
            let there = format!("thief:s3cret@{}", world.host(name));
            let error = world.go(way, &there, world.options()).await.unwrap_err();
            assert_eq!(world.arrived(), (false, false), "{way:?}");
            let text = error.to_string();
            assert!(text.contains("user name or password"), "{way:?}: {text}");
            assert!(
                !text.contains("thief") && !text.contains("s3cret"),
                "{text}"
            );
            let log = world.registry.log();
            assert!(
                log.iter().all(|entry| entry.authorization.is_none()),
                "{way:?}"
            );
        }
    }
}

/// A private registry that the operator allowed may have its storage beside it, but no metadata service.
#[rstest]
#[case(MINIO, &[INSIDE], true)]
#[case(THERE, &[INSIDE], true)]
#[case(THERE, &["169.254.169.254"], false)]
#[tokio::test]
async fn a_private_registry_may_send_us_to_private_places(
    #[case] store: &str,
    #[case] addresses: &[&str],
    #[case] allowed: bool,
) {
    let world = World::new().await;
    world.names.set(HARBOR, &[&[INSIDE]]);
    world.names.set(store, &[addresses]);
    let layer = digest_of(&noise(1, 5000));
    let to = format!("https://{}/v2/other/blobs/{layer}", world.host(store));
    let part = format!("/v2/app/blobs/{layer}");
    let redirect = Action::Status(307, vec![("location", to)], "");
    world.inside.fault(Method::GET, &part, usize::MAX, redirect);
    world.inside.put_blob("other", &noise(1, 5000));
    let mut options = world.options();
    options.private_hosts = PrivateHosts::Only([world.host(HARBOR)].into());
    let result = world.go(Way::First, &world.host(HARBOR), options).await;
    assert_eq!(result.is_ok(), allowed, "{result:?}");
    let asked = world.inside.count(&Method::GET, "/v2/other/blobs/");
    assert_eq!(asked, usize::from(allowed));
}

async fn ping(registry: &Registry) -> Result<(), RegistryError> {
    registry.ping().await
}

/// The name becomes private later: a connection that is open stays where it is, a new one is judged anew.
#[tokio::test]
async fn each_connection_is_judged_by_its_own_address() {
    let world = World::new().await;
    world.names.set(THERE, &[&[OUTSIDE], &[OUTSIDE], &[INSIDE]]);
    let mut options = world.options();
    options.retry.attempts = 1;
    let registries = Registries::new(options).unwrap();
    let registry = registries.get(&world.host(THERE)).unwrap();
    // The first answer tells that the registry does not speak HTTP/2; then there is one pool of connections.
    for _ in 0..3 {
        ping(&registry).await.unwrap();
    }
    assert_eq!(world.names.asked().len(), 2);
    // The connection ends, so that a new one is made.
    world.outside.fault(Method::GET, "/v2/", 1, Action::Reset);
    let error = ping(&registry).await.unwrap_err();
    assert!(matches!(error, RegistryError::Address { .. }), "{error}");
    assert_eq!(world.names.asked().len(), 3);
    assert_eq!(world.arrived(), (true, false));
}

/// With the search domains of a Pod, `ghcr.io` can be a Service.
#[tokio::test]
async fn names_with_a_public_suffix_are_resolved_absolutely() {
    let world = World::new().await;
    for name in [THERE, HARBOR, SERVICE] {
        world.names.set(name, &[&[INSIDE]]);
    }
    let named = [HARBOR, SERVICE].map(|name| world.host(name));
    for (private_hosts, asked) in [
        (
            vec![],
            vec!["there.example.com.", "harbor.harbor.svc", "harbor.dev."],
        ),
        (
            named.to_vec(),
            vec![
                "there.example.com.",
                "harbor.harbor.svc",
                "harbor.dev.",
                "harbor.dev",
            ],
        ),
    ] {
        let mut options = world.options();
        options.retry.attempts = 1;
        options.private_hosts = PrivateHosts::Only(private_hosts.into_iter().collect());
        let registries = Registries::new(options).unwrap();
        for name in [THERE, HARBOR, SERVICE] {
            let _ = ping(&registries.get(&world.host(name)).unwrap()).await;
        }
        let mut all = std::mem::take(&mut *world.names.asked.lock().unwrap());
        all.dedup();
        assert_eq!(all, asked);
    }
}

#[tokio::test]
async fn the_address_of_a_registry_is_known_for_fairness() {
    let world = World::new().await;
    world.names.set(HARBOR, &[&["10.0.0.1"]]);
    let networks = ["fd00:1:2:3:4:5:6:7", "fd00:1:2:3::8"];
    world.names.set(MINIO, &[&networks]);
    let registries = Registries::new(world.options()).unwrap();
    let get = |name| registries.get(&world.host(name)).unwrap();
    assert_eq!(get(HARBOR).address_group(), None);
    let _ = (ping(&get(HARBOR)).await, ping(&get(MINIO)).await);
    let group = |name| get(name).address_group().map(|address| address.to_string());
    assert_eq!(group(HARBOR).as_deref(), Some("10.0.0.1"));
    assert_eq!(group(MINIO).as_deref(), Some("fd00:1:2:3::"));
    assert_eq!(group(OUTSIDE).as_deref(), Some(OUTSIDE));
}

/// The owner of a name lists the address of another registry beside its own, so that its failures count against that one.
#[tokio::test]
async fn an_address_that_does_not_respond_is_not_a_registrys_address() {
    let world = World::new().await;
    let mut options = world.options();
    options.retry.attempts = 1;
    world.names.set(THERE, &[&["10.0.0.1", OUTSIDE]]);
    world.names.set(MINIO, &[&["10.0.0.1", "10.0.0.2"]]);
    let registries = Registries::new(options).unwrap();
    let get = |name| registries.get(&world.host(name)).unwrap();
    let group = |name| get(name).address_group().map(|address| address.to_string());
    ping(&get(THERE)).await.unwrap();
    let _ = ping(&get(MINIO)).await;
    assert_eq!(group(THERE).as_deref(), Some(OUTSIDE));
    assert_eq!(group(MINIO), None);
}

/// Whoever names images must not learn from errors what answers where.
#[rstest]
#[case::private(&[INSIDE], None)]
#[case::unknown(&[], None)]
#[case::not_there(&[OUTSIDE], Some(Action::Status(404, vec![], "")))]
#[case::broken(&[OUTSIDE], Some(Action::Status(500, vec![], "")))]
#[case::reset(&[OUTSIDE], Some(Action::Reset))]
#[case::redirected(&[OUTSIDE], Some(Action::Status(307, vec![("location", "https://10.0.0.1/".into())], "")))]
#[tokio::test]
async fn an_asker_cannot_tell_what_keeps_us_from_an_answer(
    #[case] addresses: &[&str],
    #[case] action: Option<Action>,
) {
    let world = World::new().await;
    if !addresses.is_empty() {
        world.names.set(THERE, &[addresses]);
    }
    if let Some(action) = action {
        world
            .outside
            .fault(Method::GET, "", usize::MAX, action.clone());
        world.outside.fault(Method::HEAD, "", usize::MAX, action);
    }
    let registries = Registries::new(world.options()).unwrap();
    let registry = registries.get(&world.host(THERE)).unwrap();
    let error = world
        .go(Way::First, &world.host(THERE), world.options())
        .await
        .unwrap_err();
    // The stand-in for a public address is private, so nothing else is said about it either.
    let _ = ping(&registry).await;
    assert_eq!(
        error.public_text(&registry),
        "the registry cannot be reached"
    );
}
