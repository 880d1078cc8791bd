//! The status page of the real process, in a real browser.

mod browser;

use std::path::Path;
use std::time::{Duration, Instant};

use axum::http::Method;
use bytes::Bytes;
use serde_json::{Value, json};
use testkit::api_server::{ApiServer, Page};
use testkit::blocking;
use testkit::scripted::{Action, Fake, Latch, image, noise};
use testkit::sidecar::Sidecar;

use browser::Browser;

const DEADLINE: Duration = Duration::from_mins(2);
const DEPLOYMENTS: &str = "/apis/apps/v1/deployments";
const LAYER: usize = 3 << 20;

/// Text that would do something if it were HTML, with a character that turns the direction of the text.
const HOSTILE: &str = "<img src=x onerror=console.error(1)>\u{202e}";

/// Images that are mirrored, with their users: namespace, workload, image.
const MIRRORED: [[&str; 3]; 8] = [
    ["shop", "cart", "shop/cart:2.1"],
    ["shop", "web", "shop/web:1.27"],
    ["shop", "search", "shop/search:8.1"],
    ["billing", "invoices", "billing/invoices:3"],
    ["billing", "ledger", "billing/ledger:1.0"],
    ["monitoring", "agent", "monitoring/agent:0.9"],
    ["monitoring", "alerts", "monitoring/alerts:0.27"],
    ["test", HOSTILE, "test/runner:1"],
];

struct Scene {
    sidecar: Sidecar,
    upstream: Fake,
    backup: Fake,
    /// They hold back the second and the third layer of `monitoring/collector:5`.
    held: [Latch; 2],
    _api_server: ApiServer,
}

impl Scene {
    fn start(endpoints: &str) -> Self {
        let (upstream, backup) =
            blocking::run(async { (Fake::start().await, Fake::start().await) });
        for (seed, [_, _, name]) in MIRRORED.iter().enumerate() {
            let (repository, tag) = name.split_once(':').unwrap();
            let size = 40_000 * (seed + 1);
            upstream.put_tagged(
                repository,
                tag,
                &image(seed as u64, &[noise(seed as u64, size)]),
            );
        }
        let layers: Vec<Bytes> = (101..104).map(|seed| noise(seed, LAYER)).collect();
        let collector = image(100, &layers);
        upstream.put_tagged("monitoring/collector", "5", &collector);
        let held = [Latch::closed(), Latch::closed()];
        for (latch, blob) in held.iter().zip(&collector.blobs[2..]) {
            let digest = testkit::scripted::digest_of(blob).to_string();
            upstream.fault(Method::GET, &digest, 1, Action::Late(latch.clone(), None));
        }
        let refused = Action::Status(
            403,
            Vec::new(),
            r#"{"errors":[{"code":"DENIED","message":"the plan of the account has ended"}]}"#,
        );
        for method in [Method::GET, Method::HEAD] {
            upstream.fault(method, "/v2/billing/reports/", 10_000, refused.clone());
        }
        let host = upstream.host();
        let api_server = ApiServer::start(move |path, _, _| {
            Some(match path {
                DEPLOYMENTS => Page::new(deployments(&host), false),
                _ => Page::default(),
            })
        });
        let kubeconfig = api_server.kubeconfig().unwrap();
        let mut sidecar = Sidecar::builder()
            .insecure_http()
            .without_facade_credential()
            .environment("KUBECONFIG", kubeconfig.path())
            .insecure_registry(&upstream.host())
            .insecure_registry(&backup.host());
        for argument in [
            "--kubernetes=watch",
            "--repository=acme",
            "--exclude-namespaces=kube-system",
            "--registry",
            &backup.host(),
            "--private-registry",
            &upstream.host(),
            "--status-endpoints",
            endpoints,
        ] {
            sidecar = sidecar.argument(argument);
        }
        Self {
            sidecar: sidecar.start().unwrap(),
            upstream,
            backup,
            held,
            _api_server: api_server,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.sidecar.admin())
    }

    fn api(&self, path: &str) -> Value {
        let (status, body) = self.sidecar.admin_get(path).unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    fn counts(&self, state: &str) -> u64 {
        self.api("/api/v1/status")["images"][state]
            .as_u64()
            .unwrap()
    }

    fn wait_until_settled(&self) {
        let mirrored = MIRRORED.len() as u64;
        wait("the states", || {
            let held = self
                .upstream
                .count(&Method::GET, "/monitoring/collector/blobs/");
            self.counts("mirrored") == mirrored && self.counts("failed") == 1 && held >= 3
        });
    }
}

fn deployments(host: &str) -> Vec<Value> {
    let others = [
        ["billing", "reports", "billing/reports:7"],
        ["monitoring", "collector", "monitoring/collector:5"],
        ["kube-system", "dns", "system/dns:1.11"],
    ];
    let users = MIRRORED.iter().chain(&others).enumerate();
    let deployment = |(number, [namespace, name, image]): (usize, &[&str; 3])| {
        json!({
            "metadata": { "name": name, "namespace": namespace, "uid": number.to_string(), "resourceVersion": "5" },
            "spec": { "replicas": 1, "template": { "spec": {
                "containers": [{ "name": "app", "image": format!("{host}/{image}") }],
            }}},
        })
    };
    users.map(deployment).collect()
}

fn wait(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_page_shows_in_a_browser_what_the_api_returns() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let scene = Scene::start("all");
    scene.wait_until_settled();
    browser.look(1280, 900, "light");
    browser.open(&scene.url("/"));

    for state in [
        "mirrored",
        "copying",
        "failed",
        "missing",
        "excluded",
        "rewritten",
    ] {
        let shown = browser.text(&format!("[data-count={state}]"));
        assert_eq!(shown, scene.counts(state).to_string(), "{state}");
    }
    let failed = scene.api("/api/v1/images?state=failed");
    let failed = &failed["items"][0];
    assert_eq!(
        browser.text(".attention a"),
        failed["original"].as_str().unwrap()
    );
    let reason = failed["reason"].as_str().unwrap();
    assert!(
        browser.text(".attention p").contains(&reason[1..]),
        "{reason}"
    );
    assert_eq!(
        browser.texts("h2"),
        [
            "Needs attention",
            "Copies in progress",
            "Find an image",
            "Namespaces",
            "Last copies",
            "Backups"
        ]
    );

    focus_follows_the_page(&browser);
    screenshots(&browser, &scene);
    the_bar_moves(&browser, &scene);
    search_filters(&browser, &scene);
    text_is_no_html(&browser, &scene);

    assert_eq!(browser.console(), [] as [String; 0]);
    let admin = scene.url("/");
    let requested = browser.requested();
    assert!(requested.len() > 5, "{requested:?}");
    let elsewhere: Vec<_> = requested
        .iter()
        .filter(|url| !url.starts_with(&admin) && url.starts_with("http"))
        .collect();
    assert_eq!(elsewhere, [] as [&String; 0]);
}

/// Without a reload.
fn the_bar_moves(browser: &Browser, scene: &Scene) {
    browser.open(&scene.url("/"));
    browser.value("window.isSamePage = true");
    let value = || {
        browser
            .value("document.querySelector('progress')?.value ?? 0")
            .as_f64()
            .unwrap()
    };
    let layer = f64::from(u32::try_from(LAYER).unwrap());
    wait("the first layer", || value() >= layer);
    assert!(value() < 2.0 * layer);
    scene.held[0].open();
    wait("the second layer", || value() >= 2.0 * layer);
    assert!(value() < 3.0 * layer);
    scene.held[1].open();
    let all = (MIRRORED.len() + 1).to_string();
    wait("the end of the copy", || {
        browser.text("[data-count=mirrored]") == all
    });
    wait("the end of the bar", || value() == 0.0);
    assert_eq!(browser.value("window.isSamePage"), true);
}

fn search_filters(browser: &Browser, scene: &Scene) {
    browser.open(&scene.url("/"));
    browser.value("void (document.querySelector('input[name=namespace]').value = 'shop')");
    browser.value("void document.querySelector('form').requestSubmit()");
    wait("the result", || browser.text("h1") == "Images in use");
    let shop = scene.api("/api/v1/images?namespace=shop");
    let expected: Vec<_> = shop["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["original"].as_str().unwrap())
        .collect();
    assert_eq!(expected.len(), 3);
    assert_eq!(browser.texts("tbody a"), expected);
    browser.open(&scene.url("/images?state=failed&q=reports"));
    assert_eq!(browser.texts("tbody a").len(), 1);
    browser.value("void document.querySelector('tbody a').click()");
    wait("the image", || {
        browser.text("h1").ends_with("billing/reports:7")
    });
    assert_eq!(browser.text("h2 .state"), "failed");
    // The links of a page below others lead to the same pages.
    browser.value("void document.querySelector('tbody a').click()");
    wait("the namespace", || browser.text("h1") == "Images in use");
}

fn text_is_no_html(browser: &Browser, scene: &Scene) {
    browser.open(&scene.url("/images?namespace=test"));
    let visible = HOSTILE.replace('\u{202e}', "\\u{202e}");
    assert_eq!(
        browser.texts("td[data-label='Used by']"),
        [format!("test/{visible}")]
    );
    browser.open(&scene.url("/images?q=%22%3E%3Cscript%3Econsole.error(1)%3C/script%3E"));
    assert_eq!(
        browser.value("document.querySelector('input').value"),
        "\"><script>console.error(1)</script>"
    );
    assert_eq!(
        browser.value("document.querySelectorAll('main img, main script').length"),
        0
    );
}

/// Each element that takes keys gets the focus in the order of the page, and shows it.
fn focus_follows_the_page(browser: &Browser) {
    browser.value("void (window.inOrder = [...document.querySelectorAll('a, button, input, select')].filter(e => e.checkVisibility()))");
    let count = browser.value("inOrder.length").as_u64().unwrap();
    for number in 0..count {
        browser.press_tab();
        let has_focus = browser.value(&format!("document.activeElement === inOrder[{number}]"));
        assert_eq!(
            has_focus,
            true,
            "{}",
            browser.value("document.activeElement.outerHTML")
        );
        let outline = browser.value("getComputedStyle(document.activeElement).outlineStyle");
        assert_eq!(outline, "solid", "{number}");
    }
}

/// Compares the layout at two widths in both colour schemes; with `IMAGE_MIRROR_ACCEPT` the pictures of the docs are written.
fn screenshots(browser: &Browser, scene: &Scene) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/images");
    let is_accepted = std::env::var_os("IMAGE_MIRROR_ACCEPT").is_some();
    // Ports differ each time, and the docs speak of other registries.
    let names = format!(
        "(() => {{ const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT); \
         while (walker.nextNode()) walker.currentNode.data = walker.currentNode.data\
         .replaceAll('{}', 'ghcr.io').replaceAll('{}', 'registry.example.com'); }})()",
        scene.upstream.host(),
        scene.backup.host()
    );
    for path in ["/", "/images", "/images?state=failed"] {
        browser.look(400, 900, "light");
        browser.open(&scene.url(path));
        assert_eq!(
            browser.value("document.documentElement.scrollWidth"),
            400,
            "{path}"
        );
    }
    browser.open(&scene.url("/"));
    browser.value("void document.getElementById('refresh-button').click()");
    browser.value(&names);
    for (width, height) in [(400, 900), (1280, 1100)] {
        for scheme in ["light", "dark"] {
            browser.look(width, height, scheme);
            let expected = if scheme == "light" {
                "rgb(246, 247, 249)"
            } else {
                "rgb(18, 23, 29)"
            };
            assert_eq!(
                browser.value("getComputedStyle(document.body).backgroundColor"),
                expected
            );
            let png = browser.screenshot();
            assert!(png.starts_with(b"\x89PNG"));
            if is_accepted {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join(format!("status-{width}-{scheme}.png")), png).unwrap();
            }
        }
    }
    browser.look(1280, 900, "light");
}

#[test]
fn the_page_can_be_off_with_or_without_the_api() {
    for (endpoints, expected) in [
        ("all", [200, 200]),
        ("api", [404, 200]),
        ("none", [404, 404]),
    ] {
        let scene = Scene::start(endpoints);
        let found = ["/", "/api/v1/status"].map(|path| scene.sidecar.admin_get(path).unwrap().0);
        assert_eq!(found, expected, "{endpoints}");
    }
}

#[test]
fn responses_allow_nothing_but_what_the_page_needs() {
    let scene = Scene::start("all");
    let send = |method: Method, path: &str| {
        blocking::run(async {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            client
                .request(method, scene.url(path))
                .send()
                .await
                .unwrap()
        })
    };
    for (path, status) in [
        ("/", 200),
        ("/images", 200),
        ("/images?state=broken", 400),
        ("/images/docker.io/library/unused:1", 404),
        ("/images/UPPER%3Cb%3E", 400),
        ("/assets/page.css", 200),
        ("/assets/page.js", 200),
        ("/assets/icon.svg", 200),
    ] {
        for method in [Method::GET, Method::HEAD] {
            let response = send(method, path);
            assert_eq!(response.status(), status, "{path}");
            let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
            let policy = header("content-security-policy");
            for part in [
                "default-src 'none'",
                "script-src 'self';",
                "style-src 'self';",
                "frame-ancestors 'none'",
            ] {
                assert!(policy.contains(part), "{path}: {policy}");
            }
            assert_eq!(header("x-content-type-options"), "nosniff");
            assert_eq!(header("referrer-policy"), "no-referrer");
            assert_eq!(header("cache-control"), "no-store");
        }
        assert_eq!(send(Method::POST, path).status(), 405, "{path}");
    }
}
