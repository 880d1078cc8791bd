use super::*;
use crate::status::model::{API_VERSION, Progress, Queue, Upstream, User, Users};
use crate::status::namespaces::NamespaceTotals;

const HOSTILE: &str = "<b onclick=x>\"&\u{202e}\u{1b}";
const VISIBLE: &str = "&#60;b onclick=x&#62;&#34;&#38;\\u{202e}\\u{1b}";

fn image(original: &str, state: State, upstream: Upstream) -> ImageStatus {
    ImageStatus {
        original: original.to_owned(),
        rule: None,
        backup: Some("default".to_owned()),
        target: Some(HOSTILE.to_owned()),
        state,
        reason: HOSTILE.to_owned(),
        digest: None,
        bytes: Some(3 << 20),
        platforms: vec!["linux/amd64".to_owned(), "linux/arm64".to_owned()],
        users: Users {
            total: 3,
            items: vec![User {
                namespace: HOSTILE.to_owned(),
                kind: "Deployment".to_owned(),
                name: HOSTILE.to_owned(),
            }],
        },
        first_seen: None,
        last_check: None,
        last_copy: None,
        upstream,
        progress: None,
    }
}

fn list(items: Vec<ImageStatus>) -> ImageList {
    ImageList {
        api_version: API_VERSION.to_owned(),
        items,
        next: None,
        replicas: Vec::new(),
    }
}

fn data() -> Data {
    let images = Totals {
        mirrored: 1,
        copying: 1,
        failed: 1,
        last_copies: 1,
        excluded: 1,
        ..Totals::default()
    };
    let mut running = image("ghcr.io/a/b:1", State::Copying, Upstream::Current);
    running.progress = Some(Progress {
        bytes_done: 1 << 20,
        bytes_total: Some(4 << 20),
        bytes_per_second: 1024,
    });
    Data {
        overview: Overview {
            api_version: API_VERSION.to_owned(),
            version: VERSION.to_owned(),
            is_complete: true,
            images,
            backups: vec![BackupStatus {
                name: "default".to_owned(),
                location: "registry.example.com/acme".to_owned(),
                is_healthy: false,
                reason: Some("the login is refused; correct the password".to_owned()),
                images,
            }],
            excluded_not_listed: 0,
            queue: Queue::default(),
            replicas: vec![ReplicaStatus {
                name: "mirror-sidecar-b".to_owned(),
                has_responded: false,
                reason: Some("it did not respond within 2 s".to_owned()),
            }],
        },
        failed: list(vec![image(HOSTILE, State::Failed, Upstream::Unknown)]),
        running: list(vec![running]),
        last_copies: list(vec![image(
            "ghcr.io/a/gone:1",
            State::Mirrored,
            Upstream::Gone,
        )]),
        namespaces: Namespaces {
            first: vec![NamespaceTotals {
                name: HOSTILE.into(),
                images,
            }],
            total: 1,
        },
    }
}

fn has(html: &str, parts: &[&str]) {
    for part in parts {
        assert!(html.contains(part), "{part} is not in {html}");
    }
}

#[test]
fn the_overview_shows_what_needs_attention() {
    let html = render(&OverviewPage::new(&data(), true)).unwrap();
    has(
        &html,
        &[
            "<h1 id=\"headline\">2 of 3 images in use are not protected</h1>",
            "33 %",
            "The backup default cannot be used",
            "The login is refused; correct the password.",
            "The replica mirror-sidecar-b did not respond",
            "It did not respond within 2 s.",
            "1 image in no other registry",
            "value=\"1048576\" max=\"4194304\"",
            "1.0 MiB of 4.0 MiB, 1.0 KiB/s",
            "images/ghcr.io/a/gone%3A1",
            "mirrored\" x=\"0.00\" width=\"25.00\"",
        ],
    );
    assert!(!html.contains("Nothing needs attention"));
}

#[test]
fn text_from_elsewhere_is_visible_and_no_html() {
    let images = list(vec![image(HOSTILE, State::Missing, Upstream::Moved)]);
    let query = ImageQuery {
        text: Some(HOSTILE.to_owned()),
        namespace: Some(HOSTILE.to_owned()),
        ..ImageQuery::default()
    };
    let problem = Problem(StatusCode::NOT_FOUND, HOSTILE.to_owned());
    for html in [
        render(&OverviewPage::new(&data(), true)),
        render(&ImagesPage::new(
            &query,
            &images,
            vec![HOSTILE.to_owned(); 2],
        )),
        render(&ImagePage::new(HOSTILE, &images, 3)),
        render(&ErrorPage::new(&problem, 1)),
    ] {
        let html = html.unwrap();
        has(&html, &[VISIBLE]);
        assert!(!html.contains("<b onclick"), "{html}");
        assert!(!html.contains(['\u{202e}', '\u{1b}']), "{html}");
    }
}

#[test]
fn links_of_a_page_below_others_are_relative() {
    let images = list(vec![image(
        "ghcr.io/a/b:1",
        State::Mirrored,
        Upstream::Gone,
    )]);
    let html = render(&ImagePage::new("ghcr.io/a/b:1", &images, 3)).unwrap();
    has(
        &html,
        &[
            "href=\"../../../assets/page.css\"",
            "href=\"../../../images?namespace=",
            "<dd>3.0 MiB (3145728 bytes), all platforms</dd>",
            "linux/amd64, linux/arm64",
            "Do not delete the copy",
            "The first 1 of 3 workloads",
        ],
    );
    assert!(!html.contains("=\"/"), "{html}");
}

#[test]
fn the_next_page_keeps_the_filters() {
    let images = ImageList {
        next: Some("backup:default/ghcr.io/a/b:1".to_owned()),
        ..list(vec![image("ghcr.io/a/b:1", State::Failed, Upstream::Gone)])
    };
    let query = ImageQuery {
        states: vec![State::Failed, State::Missing],
        ..ImageQuery::default()
    };
    let html = render(&ImagesPage::new(&query, &images, Vec::new())).unwrap();
    has(
        &html,
        &[
            "images?limit=100&#38;state=failed%2Cmissing&#38;continue=backup%3Adefault%2Fghcr.io%2Fa%2Fb%3A1",
            "<option value=\"failed,missing\" selected>failed, missing</option>",
        ],
    );
}

#[test]
fn nothing_to_do_is_said() {
    let mut data = data();
    data.overview.images = Totals::default();
    data.overview.backups.clear();
    data.overview.replicas.clear();
    for list in [&mut data.failed, &mut data.running, &mut data.last_copies] {
        list.items.clear();
    }
    let html = render(&OverviewPage::new(&data, false)).unwrap();
    has(
        &html,
        &[
            "No image in use needs a copy",
            "Nothing needs attention.",
            "No copy is running.",
            "--kubernetes=off",
        ],
    );
}
