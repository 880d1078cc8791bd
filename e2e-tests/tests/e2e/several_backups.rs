//! Several backups in one service: each request goes to its backup with its own login, no copy is made from another one, and
//! a new configuration is used without a restart.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use mirror_contract::{Backup, ImageRef, Naming};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::api_server::{ApiServer, Page};
use testkit::blocking;
use testkit::registry::{Credential, RegistryClient};
use testkit::scripted::{Action, Auth, Fake, Latch, image, noise};
use testkit::sidecar::{Sidecar, SidecarBuilder};

use crate::support::{COPY_DEADLINE, REPOSITORY};

const USER: &str = "pusher";

struct Scene {
    upstream: Fake,
    main: Fake,
    teams: Vec<(&'static str, Fake)>,
    folder: TempDir,
}

impl Scene {
    /// Backups with a login each; those of teams are not in the configuration yet.
    fn new(teams: &[&'static str]) -> Self {
        let start = || blocking::run(Fake::start());
        let (upstream, main) = (start(), start());
        let folder = tempfile::tempdir().unwrap();
        let protect = |fake: &Fake, password: &str| {
            let auth = Auth::Basic {
                user: USER.to_owned(),
                password: password.to_owned(),
            };
            fake.set(|knobs| knobs.auth = auth);
            std::fs::write(folder.path().join(password), password).unwrap();
        };
        protect(&main, "main");
        let teams = teams.iter().map(|team| (*team, start()));
        let teams: Vec<_> = teams.collect();
        for (team, fake) in &teams {
            protect(fake, team);
        }
        for (seed, name) in ["shop/app", "shop/other"].into_iter().enumerate() {
            let seed = u64::try_from(seed).unwrap();
            upstream.put_tagged(name, "v1", &image(seed, &[noise(seed, 3000)]));
        }
        Self {
            upstream,
            main,
            teams,
            folder,
        }
    }

    fn team(&self, name: &str) -> &Fake {
        &self.teams.iter().find(|(team, _)| *team == name).unwrap().1
    }

    fn configure(&self, teams: &[&str]) {
        self.configure_with(teams, "");
    }

    /// Appends lines to the last team.
    fn configure_with(&self, teams: &[&str], lines: &str) {
        let mut text = "backups:\n".to_owned();
        for team in teams {
            let (host, file) = (self.team(team).host(), self.folder.path().join(team));
            writeln!(
                text,
                "  {team}:\n    registry: {host}\n    repository: {team}\n    push:\n      username: {USER}\n      \
                 passwordFile: {}",
                file.display()
            )
            .unwrap();
        }
        text.push('\n');
        text.push_str(lines);
        // Renamed, so that the file is never read half.
        let next = self.folder.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, self.folder.path().join("config.yaml")).unwrap();
    }

    fn serve(&self) -> Service {
        self.serve_with(&[])
    }

    fn serve_with(&self, arguments: &[String]) -> Service {
        self.serve_in(Sidecar::builder(), arguments)
    }

    fn serve_in(&self, sidecar: SidecarBuilder, arguments: &[String]) -> Service {
        let mut sidecar = sidecar
            .argument(format!("--registry={}", self.main.host()))
            .argument(format!("--repository={REPOSITORY}"))
            .argument(format!("--registry-username={USER}"))
            .argument("--registry-password=main")
            .argument(format!(
                "--config={}",
                self.folder.path().join("config.yaml").display()
            ))
            .insecure_registry(&self.main.host())
            .insecure_registry(&self.upstream.host())
            .insecure_http()
            .without_facade_credential();
        for argument in arguments {
            sidecar = sidecar.argument(argument);
        }
        for (_, fake) in &self.teams {
            sidecar = sidecar.insecure_registry(&fake.host());
        }
        let sidecar = sidecar.start().unwrap();
        let no_login: Option<Credential> = None;
        let client = RegistryClient::new(&sidecar.facade(), no_login, None);
        Service { sidecar, client }
    }

    fn original(&self, name: &str) -> ImageRef<'static> {
        let text = format!("{}/{name}:v1", self.upstream.host());
        text.parse().unwrap()
    }

    /// The copy of an image in the backup of a team.
    fn copy(&self, team: &str, name: &str) -> ImageRef<'static> {
        let backup = Backup::new(&self.team(team).host(), team, Naming::Flat).unwrap();
        backup.target(&self.original(name)).unwrap()
    }
}

/// A sidecar and a client of its facade.
struct Service {
    sidecar: Sidecar,
    client: RegistryClient,
}

impl Service {
    /// The annotations of the response, or the text of the error.
    fn ask(&self, backup: &str, image: &ImageRef<'_>) -> Result<Value, String> {
        self.ask_about(&format!("{backup}tag"), image, image.tag().unwrap())
    }

    fn ask_for_original(
        &self,
        backup: &str,
        image: &ImageRef<'_>,
        digest: &str,
    ) -> Result<Value, String> {
        let tag = digest.replace(':', "-");
        self.ask_about(&format!("{backup}original/digest"), image, &tag)
    }

    fn ask_about(&self, request: &str, image: &ImageRef<'_>, tag: &str) -> Result<Value, String> {
        let (host, path) = (image.host().replace(':', "_"), image.path());
        let path = format!("/v2/{request}/{host}/{path}/manifests/{tag}");
        let body: Value = blocking::run(async {
            let response = self.client.request(Method::GET, &path).send().await;
            response.unwrap().json().await.unwrap()
        });
        match &body["annotations"] {
            Value::Null => Err(body["errors"][0]["message"].as_str().unwrap().to_owned()),
            annotations => Ok(annotations.clone()),
        }
    }

    fn wait_until_mirrored(&self, backup: &str, image: &ImageRef<'_>) -> Value {
        let start = Instant::now();
        loop {
            match self.ask(backup, image) {
                Ok(annotations) => return annotations,
                Err(error) => assert!(
                    start.elapsed() < COPY_DEADLINE,
                    "{error}\n{}",
                    self.sidecar.lines().join("\n")
                ),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn wait_for_reload(&self) {
        let start = Instant::now();
        let using = |line: &&String| line.contains("using backup");
        while self.sidecar.lines().iter().filter(using).count() < 2 {
            assert!(start.elapsed() < COPY_DEADLINE);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn wait_for(&self, message: &str, backup: &str) {
        let found = self.sidecar.wait_for(COPY_DEADLINE, |event| {
            event["message"] == message && event["backup"] == backup
        });
        found.unwrap();
    }
}

const STATE: &str = "image-mirror.dev/state";
const IMAGE: &str = "image-mirror.dev/image";
const NAME: &str = "image-mirror.dev/name";
const BACKUP: &str = "image-mirror.dev/backup";

#[test]
fn each_request_goes_to_its_backup_with_the_login_of_it() {
    let scene = Scene::new(&["team-a"]);
    scene.configure(&["team-a"]);
    let service = scene.serve();
    let app = scene.original("shop/app");
    let found = service.wait_until_mirrored("backup/team-a/", &app);
    let copy = scene.copy("team-a", "shop/app");
    assert_eq!(found[IMAGE], copy.to_string().as_str());
    service.wait_for("copied image", "team-a");
    assert!(scene.main.asked(&Method::PUT, "shop-app").is_empty());
    assert!(scene.main.asked(&Method::GET, "shop-app").is_empty());

    // The copy is where the request wants it, and for other backups it is a former one, of which no copy is made.
    let requests = scene.team("team-a").log().len();
    let here = service.ask("backup/team-a/", &copy).unwrap();
    assert_eq!(
        (&here[STATE], &here[NAME]),
        (&"in-backup".into(), &Value::Null)
    );
    let elsewhere = service.ask("", &copy).unwrap();
    assert_eq!(
        (&elsewhere[STATE], &elsewhere[NAME]),
        (&"in-backup".into(), &"former".into())
    );
    let asked = scene.team("team-a").log();
    let asked = asked.iter().skip(requests);
    assert!(asked.into_iter().all(|request| request.path == "/v2/"));

    // The default backup gets its copy from the original.
    let found = service.wait_until_mirrored("", &app);
    let image = found[IMAGE].as_str().unwrap();
    assert!(
        image.starts_with(&format!("{}/{REPOSITORY}/", scene.main.host())),
        "{image}"
    );

    let unknown = service.ask("backup/team-b/", &app).unwrap_err();
    assert!(
        unknown.contains(
            "image-mirror/failed: a rule names the backup team-b, which is not defined; define it"
        ),
        "{unknown}"
    );
    let (_, metrics) = service.sidecar.admin_get("/metrics").unwrap();
    for line in [
        "image_mirror_copy_jobs{state=\"waiting\"} 0",
        "image_mirror_copy_jobs{state=\"waiting\",backup=\"team-a\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }
}

#[test]
fn a_new_configuration_is_used_without_a_restart() {
    let scene = Scene::new(&["team-a", "team-b"]);
    scene.configure(&["team-a"]);
    let service = scene.serve();
    let (app, other) = (scene.original("shop/app"), scene.original("shop/other"));
    service.wait_until_mirrored("backup/team-a/", &app);
    service.ask("backup/team-b/", &app).unwrap_err();

    scene.configure(&["team-a", "team-b"]);
    service.wait_for("using backup", "team-b");
    let found = service.wait_until_mirrored("backup/team-b/", &app);
    let copy = scene.copy("team-b", "shop/app");
    assert_eq!(found[IMAGE], copy.to_string().as_str());
    service.wait_until_mirrored("backup/team-a/", &other);

    // The last valid one stays in force.
    std::fs::write(
        scene.folder.path().join("config.yaml"),
        "backups: {team-a: {}}",
    )
    .unwrap();
    let invalid = service.sidecar.wait_for(COPY_DEADLINE, |event| {
        let message = event["message"].as_str().unwrap_or_default();
        message.contains("cannot read the configuration file")
    });
    invalid.unwrap();
    service.wait_until_mirrored("backup/team-b/", &other);

    scene.configure(&["team-b"]);
    let start = Instant::now();
    while service.ask("backup/team-a/", &app).is_ok() {
        assert!(start.elapsed() < COPY_DEADLINE);
        std::thread::sleep(Duration::from_millis(50));
    }
    let (status, _) = service.sidecar.admin_get("/readyz").unwrap();
    assert_eq!(status, 200);
    // An alert about a backup that is gone would never end.
    loop {
        let (_, metrics) = service.sidecar.admin_get("/metrics").unwrap();
        assert!(metrics.contains("backup=\"team-b\""), "{metrics}");
        if !metrics.contains("backup=\"team-a\"") {
            break;
        }
        assert!(start.elapsed() < COPY_DEADLINE, "{metrics}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A copy to a backup that did not change continues.
#[test]
fn a_change_elsewhere_aborts_no_copy() {
    let scene = Scene::new(&["team-a"]);
    scene.configure(&["team-a"]);
    let service = scene.serve();
    let app = scene.original("shop/app");
    let latch = Latch::closed();
    let late = Action::Late(latch.clone(), None);
    scene.upstream.fault(Method::GET, "/blobs/", 1, late);
    service.ask("", &app).unwrap_err();
    let start = Instant::now();
    while scene.upstream.count(&Method::GET, "/blobs/") == 0 {
        assert!(start.elapsed() < COPY_DEADLINE);
        std::thread::sleep(Duration::from_millis(20));
    }
    scene.configure_with(
        &["team-a"],
        "    parallelCopies: 1
",
    );
    service.wait_for_reload();
    latch.open();
    service.wait_until_mirrored("", &app);
    let manifests = |backup: &str| scene.upstream.count(&Method::GET, backup);
    assert_eq!(
        manifests("shop/app/manifests/v1"),
        1,
        "it was not started again"
    );
}

/// The configuration, and the files that it depends on, are not replaced at the same moment.
#[test]
fn a_configuration_that_cannot_be_used_yet_is_used_later() {
    let scene = Scene::new(&["team-a", "team-b"]);
    scene.configure(&["team-a"]);
    let logins = scene.folder.path().join("docker.json");
    std::fs::write(&logins, "{}").unwrap();
    let service = scene.serve_with(&[format!("--docker-config={}", logins.display())]);
    std::fs::write(&logins, "{").unwrap();
    scene.configure(&["team-a", "team-b"]);
    let refused = service.sidecar.wait_for(COPY_DEADLINE, |event| {
        let message = event["message"].as_str().unwrap_or_default();
        message.contains("cannot use the new configuration")
    });
    refused.unwrap();
    let app = scene.original("shop/app");
    service.ask("backup/team-b/", &app).unwrap_err();
    std::fs::write(&logins, "{}").unwrap();
    service.wait_for("using backup", "team-b");
    service.wait_until_mirrored("backup/team-b/", &app);
}

/// Neither a retry nor the new configuration may hold up a copy as after a restart, when the record of the process before is
/// read first, for up to five seconds.
#[test]
fn a_configuration_that_cannot_be_used_yet_delays_no_copy() {
    let scene = Scene::new(&["team-a", "team-b"]);
    scene.configure(&["team-a"]);
    let logins = scene.folder.path().join("docker.json");
    let login = json!({ "auths": { scene.main.host(): { "username": "u", "password": "p" } } });
    std::fs::write(&logins, login.to_string()).unwrap();
    let server = ApiServer::start(|_, _, _| Some(Page::default()));
    let kubeconfig = server.kubeconfig().unwrap();
    let sidecar = Sidecar::builder()
        .environment("KUBECONFIG", kubeconfig.path())
        .environment("POD_NAME", "mirror-sidecar-0")
        .environment("POD_NAMESPACE", "home");
    let pull = format!("--pull-docker-config={}", logins.display());
    let service = scene.serve_in(sidecar, &["--kubernetes=on".to_owned(), pull]);
    let leases = || server.stored("/apis/coordination.k8s.io/v1/namespaces/home/leases");
    let start = Instant::now();
    while leases().is_empty() {
        assert!(start.elapsed() < COPY_DEADLINE);
        std::thread::sleep(Duration::from_millis(20));
    }
    let group = |lease: &Value| lease["metadata"]["labels"].clone();
    let before = leases().iter().map(group).collect::<Vec<_>>();

    std::fs::write(&logins, r#"{"auths": {}}"#).unwrap();
    scene.configure(&["team-a", "team-b"]);
    let refused = service.sidecar.wait_for(COPY_DEADLINE, |event| {
        let message = event["message"].as_str().unwrap_or_default();
        message.contains("cannot use the new configuration")
    });
    refused.unwrap();
    let asked = Instant::now();
    service.wait_until_mirrored("backup/team-a/", &scene.original("shop/app"));
    assert!(asked.elapsed() < Duration::from_secs(4));
    assert_eq!(leases().iter().map(group).collect::<Vec<_>>(), before);
}

/// Waits until the backup of a team is gone.
fn wait_until_undefined(service: &Service, backup: &str, image: &ImageRef<'_>) {
    let start = Instant::now();
    let is_defined = || {
        let response = service.ask(backup, image);
        !response.is_err_and(|error| error.contains("which is not defined"))
    };
    while is_defined() {
        assert!(start.elapsed() < COPY_DEADLINE);
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_new_configuration_during_copies_loses_nothing() {
    let scene = Scene::new(&["team-a", "team-b"]);
    scene.configure(&["team-a", "team-b"]);
    let held = Latch::closed();
    let late = || Action::Late(held.clone(), None);
    // Copies to both backups are running, and more wait for their turn.
    scene
        .upstream
        .fault(Method::GET, "/blobs/", usize::MAX, late());
    let service = scene.serve();
    let (app, other) = (scene.original("shop/app"), scene.original("shop/other"));
    for backup in ["backup/team-a/", "backup/team-b/"] {
        for image in [&app, &other] {
            service.ask(backup, image).unwrap_err();
        }
    }
    let start = Instant::now();
    while scene.upstream.count(&Method::GET, "/blobs/") < 2 {
        assert!(start.elapsed() < COPY_DEADLINE);
        std::thread::sleep(Duration::from_millis(20));
    }

    scene.configure(&["team-b"]);
    wait_until_undefined(&service, "backup/team-a/", &app);
    let sent = scene.team("team-a").log().len();
    held.open();
    scene.upstream.forget_faults();
    for image in [&app, &other] {
        service.wait_until_mirrored("backup/team-b/", image);
        service.wait_until_mirrored("", image);
    }
    // Nothing is sent to a backup that was removed.
    assert_eq!(scene.team("team-a").log().len(), sent);
    assert_eq!(scene.team("team-a").tags(), 0);

    // All slots are free again.
    scene.configure(&["team-a", "team-b"]);
    service.wait_for("using backup", "team-a");
    for image in [&app, &other] {
        service.wait_until_mirrored("backup/team-a/", image);
    }
    let panicked = |line: &String| line.contains("panicked");
    assert!(!service.sidecar.lines().iter().any(panicked));
}

#[test]
fn another_registry_under_the_same_name_gets_its_own_login_alone() {
    let scene = Scene::new(&["team-a", "team-b"]);
    scene.configure(&["team-a"]);
    let service = scene.serve();
    let app = scene.original("shop/app");
    service.wait_until_mirrored("backup/team-a/", &app);

    let config = scene.folder.path().join("config.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    let (old, new) = (scene.team("team-a").host(), scene.team("team-b").host());
    let password = scene.folder.path().join("team-b").display().to_string();
    let old_password = scene.folder.path().join("team-a").display().to_string();
    let text = text.replace(&old, &new).replace(&old_password, &password);
    let next = scene.folder.path().join("next");

    // A login that cannot be read keeps the last configuration in force.
    std::fs::rename(&password, scene.folder.path().join("away")).unwrap();
    std::fs::write(&next, &text).unwrap();
    std::fs::rename(&next, &config).unwrap();
    let invalid = service.sidecar.wait_for(COPY_DEADLINE, |event| {
        let message = event["message"].as_str().unwrap_or_default();
        let error = event["error"].as_str().unwrap_or_default();
        message.contains("cannot read the configuration file")
            && error.contains("backups.team-a.push.passwordFile")
    });
    invalid.unwrap();
    let other = scene.original("shop/other");
    service.wait_until_mirrored("backup/team-a/", &other);
    assert!(scene.team("team-b").log().is_empty());

    std::fs::rename(scene.folder.path().join("away"), &password).unwrap();
    let start = Instant::now();
    loop {
        let found = service.ask("backup/team-a/", &app);
        if found.is_ok_and(|found| found[IMAGE].as_str().unwrap().starts_with(&new)) {
            break;
        }
        assert!(start.elapsed() < COPY_DEADLINE);
        std::thread::sleep(Duration::from_millis(50));
    }
    // The old registry sees no request after the last one that was on its way.
    std::thread::sleep(Duration::from_millis(500));
    let sent = scene.team("team-a").log().len();
    service.wait_until_mirrored("backup/team-a/", &other);
    assert_eq!(scene.team("team-a").log().len(), sent);
}

/// Whoever may create Pods chooses the image and digest of a request for an original.
#[test]
fn originals_come_from_no_other_place() {
    let scene = Scene::new(&["team-a", "team-b"]);
    scene.configure(&["team-a", "team-b"]);
    let service = scene.serve();
    let app = scene.original("shop/app");
    let found = service.wait_until_mirrored("backup/team-b/", &app);
    let digest = found["image-mirror.dev/digest"].as_str().unwrap();
    for backup in ["", "backup/team-a/"] {
        let error = service.ask_for_original(backup, &app, digest).unwrap_err();
        assert!(error.ends_with("the backup registry responds"), "{error}");
    }
    let team_a = scene.team("team-a");
    team_a.fault(
        Method::GET,
        "/v2/",
        usize::MAX,
        Action::Status(500, Vec::new(), ""),
    );
    let outage = service.sidecar.wait_for(COPY_DEADLINE, |event| {
        let message = event["message"].as_str().unwrap_or_default();
        message.starts_with("the backup registry cannot be reached") && event["backup"] == "team-a"
    });
    outage.unwrap();

    let original = service.ask_for_original("backup/team-a/", &app, digest);
    assert_eq!(original.unwrap()[STATE], "original");
    let refused = |backup: &str, image: &ImageRef<'_>, digest: &str| {
        let error = service.ask_for_original(backup, image, digest);
        error.unwrap_err()
    };
    let invented = format!("sha256:{}", "1".repeat(64));
    let error = refused("backup/team-a/", &app, &invented);
    assert!(error.contains("image-mirror/failed"), "{error}");

    // The policy requests originals only for a copy that cannot be pulled.
    for (team, expected) in [
        ("team-a", Value::from("unavailable")),
        ("team-b", Value::Null),
    ] {
        let copy = scene.copy(team, "shop/app");
        for backup in ["", "backup/team-a/", "backup/team-b/"] {
            let found = service.ask(backup, &copy).unwrap();
            assert_eq!(found[BACKUP], expected, "{backup}: {copy}");
        }
    }

    // The login of another backup reads nothing, and no address is reached that images may not be copied from.
    let of_team_b = scene.copy("team-b", "shop/app");
    let requests = scene.team("team-b").log().len();
    let error = refused("backup/team-a/", &of_team_b, digest);
    assert!(error.ends_with("it is a copy itself"), "{error}");
    let log = scene.team("team-b").log().into_iter().skip(requests);
    assert!(log.into_iter().all(|request| request.path == "/v2/"));
    let forbidden = blocking::run(Fake::start());
    let address = forbidden.host();
    for host in [&address, &address.replace("127.0.0.1", "localhost")] {
        let image = format!("{host}/shop/app:v1");
        refused("backup/team-a/", &image.parse().unwrap(), digest);
    }
    assert_eq!(forbidden.log().len(), 0);
}

/// The former registry needs a login, which is neither that of the backup nor for images that users name.
#[test]
fn a_former_location_belongs_to_its_backup_and_is_read_with_the_docker_config() {
    let scene = Scene::new(&["team-a", "team-b", "former"]);
    let former = scene.team("former");
    let location = format!("{}/team-a", former.host());
    let lines = format!("    formerLocations: [{location}]\n");
    scene.configure_with(&["team-b", "team-a"], &lines);
    let docker_config = scene.folder.path().join("docker.json");
    let login = format!(
        r#"{{"auths":{{"{}":{{"username":"{USER}","password":"former"}}}}}}"#,
        former.host()
    );
    std::fs::write(&docker_config, login).unwrap();
    // Its original is gone.
    let gone = scene.original("shop/gone");
    let [place, _] = Backup::with_both_namings(&location).unwrap();
    let copy = place.target(&gone).unwrap();
    former.put_tagged(copy.path(), "v1", &image(7, &[noise(7, 3000)]));
    former.put_tagged("private/app", "v1", &image(8, &[noise(8, 3000)]));

    let flag = format!("--docker-config={}", docker_config.display());
    let service = scene.serve_with(&[flag]);
    for backup in ["", "backup/team-a/", "backup/team-b/"] {
        let found = service.ask(backup, &copy).unwrap();
        let expected = (&"in-backup".into(), &"former".into());
        assert_eq!((&found[STATE], &found[NAME]), expected, "{backup}");
    }
    assert!(former.log().is_empty());

    service.wait_until_mirrored("backup/team-a/", &gone);
    let private = format!("{}/private/app:v1", former.host());
    let private = private.parse().unwrap();
    let start = Instant::now();
    loop {
        let refusal = service.ask("backup/team-b/", &private).unwrap_err();
        if refusal.contains("image-mirror/failed:") {
            break;
        }
        assert!(start.elapsed() < COPY_DEADLINE, "{refusal}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let asked = former.log();
    let mut asked = asked
        .iter()
        .filter(|request| request.path.contains("private"));
    assert!(asked.all(|request| request.authorization.is_none()));
}

/// Whatever backup the rule of the original names.
#[test]
fn the_health_of_a_copy_is_that_of_its_own_backup() {
    let scene = Scene::new(&["team-a", "team-b"]);
    scene.configure(&["team-a", "team-b"]);
    let down = Action::Status(500, Vec::new(), "");
    scene
        .team("team-a")
        .fault(Method::GET, "/v2/", usize::MAX, down);
    let service = scene.serve();
    let state = |backup: &str, team: &str| {
        let copy = scene.copy(team, "shop/app");
        service.ask(backup, &copy).unwrap()["image-mirror.dev/backup"].clone()
    };
    let start = Instant::now();
    while state("backup/team-a/", "team-a") != "unavailable" {
        assert!(start.elapsed() < COPY_DEADLINE);
        std::thread::sleep(Duration::from_millis(50));
    }
    let app = scene.original("shop/app");
    let digest = scene.upstream.tag("shop/app", "v1").unwrap();
    let version = digest.replace(':', "-");
    for backup in ["", "backup/team-b/"] {
        assert_eq!(state(backup, "team-a"), "unavailable", "{backup}");
        assert_eq!(state(backup, "team-b"), Value::Null, "{backup}");
        for peek in ["peek/", ""] {
            let kind = format!("{peek}{backup}original/digest");
            let found = service.ask_about(&kind, &app, &version).unwrap();
            assert_eq!(found[STATE], "original", "{kind}");
        }
    }
    let is_original_logged = |event: &Value| {
        let message = event["message"].as_str().unwrap_or_default();
        message.starts_with("responded that new pods may use an original")
    };
    let events = service.sidecar.events();
    assert_eq!(
        events
            .iter()
            .filter(|event| is_original_logged(event))
            .count(),
        1
    );
}
