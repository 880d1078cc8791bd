//! Private networks that are reached through the sidecar.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::site::{Site, hostile, response, wait};
use super::{Attack, Measured, Setup};
use testkit::scripted::OCI_MANIFEST;

/// How long a connection that must not come is waited for.
const SILENCE: Duration = Duration::from_secs(3);

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "Images at private addresses in every spelling, at `localhost` and at cluster names",
        bound: "0 connections",
        is_short: true,
        run: spellings,
    },
    Attack {
        name: "Redirects, upload locations and token realms that lead to private addresses",
        bound: "0 connections",
        is_short: true,
        run: redirects,
    },
    Attack {
        name: "User and password in a redirect",
        bound: "0 requests with `Authorization`",
        is_short: true,
        run: userinfo,
    },
    Attack {
        name: "Errors that tell the asker whether a port is open",
        bound: "the same text for both",
        is_short: true,
        run: oracle,
    },
];

/// A listener that nobody may connect to.
struct Canary {
    address: SocketAddr,
    met: Arc<AtomicUsize>,
}

impl Canary {
    fn start(host: [u8; 4]) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::from(host), 0))?;
        let address = listener.local_addr()?;
        let met = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&met);
        std::thread::spawn(move || {
            // Each connection is closed immediately.
            for stream in listener.incoming() {
                count.fetch_add(usize::from(stream.is_ok()), Ordering::SeqCst);
            }
        });
        Ok(Self { address, met })
    }

    fn met(&self) -> usize {
        self.met.load(Ordering::SeqCst)
    }
}

fn spellings(setup: Setup) -> anyhow::Result<Measured> {
    let canary = Canary::start([127, 0, 0, 1])?;
    let port = canary.address.port();
    let site = Site::start(setup, &[])?;
    let hosts = [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0.0.0.0",
        "localhost",
        "a.localhost",
        "localhost.localdomain",
        "ip6-localhost",
        "127.0.0.1.nip.io",
        "service.namespace",
        "service.namespace.svc",
        "service.namespace.svc.cluster.local",
        "printer.local",
    ];
    let mut asked = 0;
    for host in hosts {
        // What is no reference at all is refused before anything else.
        asked += usize::from(site.ask(&format!("{host}:{port}/team/app:1")).is_ok());
    }
    wait(SILENCE, || canary.met() > 0);
    Ok(Measured {
        value: format!(
            "{} connections, {asked} of {} names asked for",
            canary.met(),
            hosts.len()
        ),
        is_within_bound: canary.met() == 0,
    })
}

/// Hostile registries with public names, which a proxy at the first source stands for: no name here resolves to a public
/// address. Private addresses are not reached through the proxy.
fn redirects(setup: Setup) -> anyhow::Result<Measured> {
    let canary = Canary::start([127, 0, 0, 77])?;
    let port = canary.address.port();
    let targets = [
        format!("http://127.0.0.77:{port}/latest"),
        format!("http://127.77:{port}/latest"),
        format!("http://[::ffff:127.0.0.77]:{port}/latest"),
        format!("http://[64:ff9b::7f00:4d]:{port}/latest"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "http://metadata.google.internal/".to_owned(),
        "http://[fd00:ec2::254]/latest".to_owned(),
        "http://service.namespace.svc/".to_owned(),
    ];
    let images = 2 * targets.len();
    let sources = hostile(move |_, path, _| {
        let repository = path.trim_start_matches("/v2/team/app-");
        let number: String = repository
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        let number: usize = number.parse().unwrap_or(0);
        let target = targets
            .get(number / 2 % targets.len())
            .cloned()
            .unwrap_or_default();
        let (status, name, value) = if number.is_multiple_of(2) {
            (307, "location", target)
        } else {
            (
                401,
                "www-authenticate",
                format!(r#"Bearer realm="{target}",service="x""#),
            )
        };
        let mut answer = response(status, "application/json", "{}");
        if let Ok(value) = value.parse() {
            answer.headers_mut().insert(name, value);
        }
        answer
    });
    let Some(proxy) = sources.first() else {
        anyhow::bail!("no sources");
    };
    let host = |number: usize| format!("registry-{}.example.com:5000", number % 8);
    let site = Site::start_with(setup, &[], |mut sidecar| {
        for number in 0..8 {
            sidecar = sidecar.insecure_registry(&host(number));
        }
        sidecar
            .environment("HTTP_PROXY", format!("http://{}", proxy.host()))
            .environment(
                "NO_PROXY",
                "localhost,127.0.0.0/8,169.254.0.0/16,::ffff:0:0/96,64:ff9b::/96",
            )
    })?;
    for number in 0..images {
        site.ask(&format!("{}/team/app-{number}:1", host(number)))?;
    }
    // What is not proxied must not come here either.
    let (mine, elsewhere) = (
        || {
            proxy
                .log()
                .iter()
                .filter(|entry| entry.path.starts_with("/v2/"))
                .count()
        },
        || {
            proxy
                .log()
                .iter()
                .filter(|entry| !entry.path.starts_with("/v2/"))
                .count()
        },
    );
    let all_requested = wait(Duration::from_secs(30), || mine() >= images);
    wait(SILENCE, || canary.met() > 0);
    let met = canary.met() + elsewhere();
    Ok(Measured {
        value: format!(
            "{met} connections, {} of {images} redirects and realms",
            mine().min(images)
        ),
        is_within_bound: met == 0 && all_requested,
    })
}

fn userinfo(setup: Setup) -> anyhow::Result<Measured> {
    let sources = hostile(|_, _, _| response(404, "application/json", "{}"));
    let Some((first, second)) = sources.first().zip(sources.get(1)) else {
        anyhow::bail!("no sources");
    };
    let host = second.host();
    first.set(|knobs| {
        knobs.other = Some(Arc::new(move |_, _, _, _| {
            let mut answer = response(307, OCI_MANIFEST, "");
            if let Ok(value) = format!("http://user:password@{host}/elsewhere").parse() {
                answer.headers_mut().insert("location", value);
            }
            answer
        }));
    });
    let site = Site::start(setup, &[first, second])?;
    site.ask(&format!("{}/team/app:1", first.host()))?;
    let is_met = wait(Duration::from_secs(20), || !first.log().is_empty());
    wait(SILENCE, || !second.log().is_empty());
    let shown = second
        .log()
        .iter()
        .filter(|entry| entry.authorization.is_some())
        .count();
    Ok(Measured {
        value: format!(
            "{shown} requests with `Authorization`, {} without",
            second.log().len() - shown
        ),
        is_within_bound: is_met && shown == 0,
    })
}

/// The response about a private registry must not depend on what listens there.
fn oracle(setup: Setup) -> anyhow::Result<Measured> {
    let canary = Canary::start([127, 0, 0, 1])?;
    let closed = {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        listener.local_addr()?
    };
    let site = Site::start(setup, &[])?;
    let mut texts = Vec::new();
    for address in [canary.address, closed] {
        let image = format!("{address}/team/app:1");
        site.ask(&image)?;
        std::thread::sleep(SILENCE);
        let reply = site.ask(&image)?;
        texts.push(reply.message.replace(&address.to_string(), "HOST"));
    }
    let is_same = texts.first() == texts.get(1);
    Ok(Measured {
        value: if is_same {
            "the same text".to_owned()
        } else {
            format!("{texts:?}")
        },
        is_within_bound: is_same,
    })
}
