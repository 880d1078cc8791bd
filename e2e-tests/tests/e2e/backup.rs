//! Backups and sources that do not say what they have, lose parts, or limit uploads: `serve` asks, copies and repairs all
//! the same, and never reports a copy that is not whole.

use std::process::Command;
use std::time::{Duration, Instant};

use mirror_contract::ImageRef;
use mirror_contract::naming::anchor_tag;
use mirror_contract::{Backup, Digest, Naming};
use reqwest::Method;
use rstest::rstest;
use serde_json::Value;
use testkit::artifacts;
use testkit::blocking;
use testkit::registry::{Credential, RegistryClient};
use testkit::scripted::{Action, Auth, Fake, Image, digest_of, image, index, noise};
use testkit::sidecar::Sidecar;

use crate::support::{COPY_DEADLINE, REPOSITORY};

const USER: &str = "pusher";
const PASSWORD: &str = "p4ss";

/// Both registries, and the flags of the sidecar.
struct Scene {
    upstream: Fake,
    backup: Fake,
}

/// A sidecar and a client of its facade.
struct Service {
    sidecar: Sidecar,
    client: RegistryClient,
}

impl Scene {
    fn new() -> Self {
        let (upstream, backup) =
            blocking::run(async { (Fake::start().await, Fake::start().await) });
        Self { upstream, backup }
    }

    fn serve(&self, login: bool) -> Service {
        let mut sidecar = Sidecar::builder()
            .argument(format!("--registry={}", self.backup.host()))
            .argument(format!("--repository={REPOSITORY}"))
            .insecure_registry(&self.backup.host())
            .insecure_registry(&self.upstream.host())
            .insecure_http()
            .without_facade_credential();
        if login {
            sidecar = sidecar
                .argument(format!("--registry-username={USER}"))
                .argument(format!("--registry-password={PASSWORD}"));
        }
        let sidecar = sidecar.start().unwrap();
        let no_login: Option<Credential> = None;
        let client = RegistryClient::new(&sidecar.facade(), no_login, None);
        Service { sidecar, client }
    }

    /// The repository of the copy of an image in `name`.
    fn copy_of(&self, name: &str) -> String {
        let backup = Backup::new(&self.backup.host(), REPOSITORY, Naming::Flat).unwrap();
        let original = format!("{}/{name}:v1", self.upstream.host());
        let original = ImageRef::parse(&original).unwrap().into_owned();
        backup.target(&original).unwrap().path().to_owned()
    }

    /// Asks about an image, until the response is as wanted; returns the others.
    fn wait(&self, service: &Service, name: &str, wanted: &str) -> Vec<String> {
        let start = Instant::now();
        let mut others = Vec::new();
        loop {
            let state = self.ask(service, name);
            if state == wanted {
                return others;
            }
            if others.last() != Some(&state) {
                others.push(state);
            }
            assert!(
                start.elapsed() < COPY_DEADLINE,
                "{name}: {others:?}\n{}",
                service.sidecar.lines().join("\n")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// `mirrored`, or the marker of the error.
    fn ask(&self, service: &Service, name: &str) -> String {
        let host = self.upstream.host().replace(':', "_");
        let path = format!("/v2/tag/{host}/{name}/manifests/v1");
        let body: Value = blocking::run(async {
            let response = service.client.request(Method::GET, &path).send().await;
            response.unwrap().json().await.unwrap()
        });
        if let Some(state) = body["annotations"]["image-mirror.dev/state"].as_str() {
            return state.to_owned();
        }
        let message = body["errors"][0]["message"].as_str().unwrap();
        let marker = message.strip_prefix("image-mirror/").unwrap();
        marker.split(':').next().unwrap().to_owned()
    }

    /// An index of two platforms upstream.
    fn put(&self, name: &str, seed: u64) -> [Image; 3] {
        let platforms = [seed, seed + 1].map(|seed| image(seed, &[noise(seed, 3000)]));
        let root = index(&[&platforms[0], &platforms[1]]);
        for platform in &platforms {
            self.upstream.put(name, platform);
        }
        self.upstream.put_tagged(name, "v1", &root);
        let [first, second] = platforms;
        [root, first, second]
    }

    fn has_copy(&self, name: &str, images: &[Image]) -> bool {
        let repository = self.copy_of(name);
        self.backup.tag(&repository, "v1") == Some(images[0].digest().to_string())
            && images
                .iter()
                .all(|image| self.backup.has(&repository, image))
    }
}

fn basic() -> Auth {
    Auth::Basic {
        user: USER.to_owned(),
        password: PASSWORD.to_owned(),
    }
}

fn bearer() -> Auth {
    Auth::Bearer {
        user: Some((USER.to_owned(), PASSWORD.to_owned())),
        expires_in: "300",
    }
}

/// Quay and Artifactory respond like that.
#[rstest]
#[case::open(Auth::Open)]
#[case::basic(basic())]
#[case::bearer(bearer())]
fn a_backup_that_hides_missing_repositories_gets_them_made(
    #[case] auth: Auth,
    #[values(401, 403)] status: u16,
) {
    let scene = Scene::new();
    let login = !matches!(auth, Auth::Open);
    scene.backup.set(|knobs| {
        knobs.auth = auth;
        knobs.hides = Some(status);
    });
    let images = scene.put("shop/app", 1);
    let service = scene.serve(login);
    let others = scene.wait(&service, "shop/app", "mirrored");
    assert!(others.iter().all(|state| state == "pending"), "{others:?}");
    assert!(scene.has_copy("shop/app", &images));
    // The right to push is requested with the first lookup.
    let tokens = scene.backup.asked(&Method::GET, "shop-app");
    let mut tokens = tokens.iter().filter(|asked| asked.path == "/token");
    assert!(tokens.all(|asked| asked.query.contains("push")));
}

#[rstest]
#[case::right(PASSWORD, 0)]
#[case::wrong("wrong", 1)]
fn a_dry_run_takes_a_hidden_repository_for_a_missing_one_but_no_wrong_login(
    #[case] password: &str,
    #[case] code: i32,
) {
    let scene = Scene::new();
    scene.backup.set(|knobs| {
        knobs.auth = bearer();
        knobs.hides = Some(401);
    });
    scene.put("shop/app", 1);
    let (from, to) = (scene.upstream.host(), scene.backup.host());
    let mut copy = Command::new(artifacts::sidecar_program().unwrap());
    copy.env_clear()
        .args(["copy", "--dry-run", "--repository", REPOSITORY])
        .args(["--registry", &to, "--insecure-registry", &from])
        .args(["--insecure-registry", &to, "--registry-username", USER])
        .args(["--registry-password", password])
        .arg(format!("{from}/shop/app:v1"));
    let output = copy.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{output:?}");
}

/// The login may not push: nothing is wrong with the image, and the log says what to do.
#[test]
fn a_backup_that_denies_uploads_is_unavailable_and_the_log_has_the_remedy() {
    let scene = Scene::new();
    scene.backup.set(|knobs| knobs.hides = Some(403));
    let denied = Action::Status(403, Vec::new(), r#"{"errors":[{"code":"DENIED"}]}"#);
    let uploads = "/blobs/uploads/";
    scene
        .backup
        .fault(Method::POST, uploads, usize::MAX, denied);
    scene.put("shop/app", 1);
    let service = scene.serve(false);
    let others = scene.wait(&service, "shop/app", "unavailable");
    assert!(others.iter().all(|state| state == "pending"), "{others:?}");
    let remedy = service.sidecar.wait_for(COPY_DEADLINE, |event| {
        let message = event["message"].as_str().unwrap_or_default();
        message.starts_with("the backup registry denies uploads; check that its login may push")
    });
    assert_eq!(remedy.unwrap()["level"], "WARN");
    // When that is put right the next request finds out, at the latest when the image is tried again.
    assert_eq!(scene.ask(&service, "shop/app"), "unavailable");
}

/// A wrong login is no missing image.
#[test]
fn a_backup_that_refuses_the_login_is_unavailable() {
    let scene = Scene::new();
    scene.put("shop/app", 1);
    let service = scene.serve(true);
    scene.backup.set(|knobs| {
        knobs.auth = Auth::Basic {
            user: USER.to_owned(),
            password: "another".to_owned(),
        };
    });
    assert_eq!(scene.ask(&service, "shop/app"), "unavailable");
    assert_eq!(scene.backup.count(&Method::POST, "/blobs/uploads/"), 0);
}

#[derive(Clone, Copy, Debug)]
enum Lost {
    Platform,
    Config,
    Layer,
}

/// A clean-up rule or a garbage collection took parts of the copy, before the sidecar was started.
#[rstest]
fn a_copy_that_lacks_parts_is_restored_before_it_counts(
    #[values(Lost::Platform, Lost::Config, Lost::Layer)] lost: Lost,
    #[values("v1", "anchor", "none")] lost_tag: &str,
) {
    let scene = Scene::new();
    let images = scene.put("shop/app", 1);
    let service = scene.serve(false);
    scene.wait(&service, "shop/app", "mirrored");
    service.sidecar.stop().unwrap();

    let repository = scene.copy_of("shop/app");
    let part = match lost {
        Lost::Platform => images[2].digest(),
        Lost::Config => digest_of(&images[2].blobs[0]),
        Lost::Layer => digest_of(&images[2].blobs[1]),
    };
    scene.backup.lose_blob(&repository, &part);
    let digest = Digest::parse(images[0].digest().as_ref())
        .unwrap()
        .into_owned();
    let tag = match lost_tag {
        "anchor" => anchor_tag(&digest),
        other => other.to_owned(),
    };
    {
        let mut state = scene.backup.state();
        state
            .manifests
            .remove(&(repository.clone(), part.to_string()));
        state.tags.remove(&(repository, tag));
    }
    let service = scene.serve(false);
    scene.wait(&service, "shop/app", "mirrored");
    assert!(scene.has_copy("shop/app", &images));
}

/// A tenant names a private image of a public registry.
#[rstest]
#[case("Basic realm=\"x\"")]
#[case("Bearer realm=\"http://HOST/none\",service=\"x\"")]
fn one_private_repository_does_not_end_the_copying_of_public_ones(#[case] challenge: &str) {
    let scene = Scene::new();
    let challenge = challenge.replace("HOST", &scene.upstream.host());
    let private = Action::Status(401, vec![("www-authenticate", challenge)], "");
    for method in [Method::HEAD, Method::GET] {
        let (path, times) = ("/v2/private/", usize::MAX);
        scene.upstream.fault(method, path, times, private.clone());
    }
    let service = scene.serve(false);
    for number in 0..3 {
        scene.wait(&service, &format!("private/app{number}"), "failed");
        let name = format!("public/app{number}");
        let images = scene.put(&name, 10 * number);
        scene.wait(&service, &name, "mirrored");
        assert!(scene.has_copy(&name, &images));
    }
    let public = scene.upstream.asked(&Method::GET, "/v2/public/");
    assert!(public.iter().all(|asked| asked.authorization.is_none()));
}

/// Registries limit uploads by themselves.
#[rstest]
#[case(429)]
#[case(503)]
fn a_limit_on_uploads_delays_neither_lookups_nor_probes(#[case] status: u16) {
    let scene = Scene::new();
    let limited = Action::Status(status, vec![("retry-after", "60".to_owned())], "");
    let (post, uploads) = (Method::POST, "/blobs/uploads/");
    scene
        .backup
        .fault(post.clone(), uploads, usize::MAX, limited);
    scene.put("shop/app", 1);
    // Its copy is there, and this sidecar has not seen it yet.
    let there = image(7, &[noise(7, 100)]);
    scene
        .backup
        .put_tagged(&scene.copy_of("shop/there"), "v1", &there);

    let service = scene.serve(false);
    assert_eq!(scene.ask(&service, "shop/app"), "pending");
    let start = Instant::now();
    while scene.backup.count(&post, uploads) == 0 {
        assert!(start.elapsed() < COPY_DEADLINE);
        std::thread::sleep(Duration::from_millis(20));
    }
    let start = Instant::now();
    scene.wait(&service, "shop/there", "mirrored");
    // One probe is answered for some seconds.
    let probes = scene.backup.count(&Method::GET, "/v2/?");
    while scene.backup.count(&Method::GET, "/v2/?") == probes {
        assert_eq!(service.sidecar.admin_get("/readyz").unwrap().0, 200);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(
        start.elapsed() < Duration::from_secs(40),
        "less than the pause"
    );
    assert_eq!(service.sidecar.admin_get("/readyz").unwrap().0, 200);
}
