//! How long an honest image waits behind hostile ones, simulated with a paused clock. The results are the table of
//! docs/fairness.md; this test fails when they differ, and writes them with `UPDATE_FAIRNESS=1`.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use mirror_copy::{CopyReport, Event, Progress as _, Retry};

use crate::copy_queue::fair_slots::Lane;
use crate::copy_queue::limits::{LONG_AFTER, RATE_PERIOD, RESPONSE_WITHIN, TICK};
use crate::copy_queue::*;
use crate::metrics::Metrics;

const SLOTS: NonZeroUsize = NonZeroUsize::new(4).unwrap();
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/fairness.md");
const BEGIN: &str = "<!-- simulated: begin -->\n";
const END: &str = "<!-- simulated: end -->";

/// What the sources of hostile images do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Hang,
    HangAfterResponse,
    Trickle,
    SlowButAlive,
    Huge,
    InventedNames,
    NoSuchDomain,
    Subdomains,
    OneAddress,
}

/// How the honest image is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Honest {
    InUse,
    InUseOfNew,
    AskedOfProven,
    AskedOfNew,
}

struct Scene {
    kind: Kind,
    number: usize,
    hostile: Lane,
    honest: Honest,
    bound: Duration,
}

struct Sources {
    kind: Kind,
    started: Mutex<Option<Instant>>,
}

impl Copier for Arc<Sources> {
    async fn copy(
        &self,
        image: &ImageRef<'static>,
        _: Task,
        progress: &JobProgress,
    ) -> Result<CopyReport, Failure> {
        progress.event(Event::SourceRequested);
        if image.host().contains("good") {
            if image.path() == "app" {
                self.started.lock().unwrap().get_or_insert(Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            progress.event(Event::SourceResponded);
            tokio::time::sleep(Duration::from_secs(5)).await;
            return Ok(super::tests::report());
        }
        let rate = match self.kind {
            Kind::Hang | Kind::HangAfterResponse | Kind::Subdomains | Kind::OneAddress => 0,
            Kind::Trickle => 27_000,
            Kind::SlowButAlive => 80_000,
            Kind::Huge => 100_000_000,
            Kind::InventedNames | Kind::NoSuchDomain => {
                tokio::time::sleep(Duration::from_millis(300)).await;
                return Err(Failure {
                    reason: "the source has no such image".into(),
                    retry: Retry::Permanent,
                    is_absent: true,
                    is_reported: false,
                });
            }
        };
        if rate > 0 || self.kind == Kind::HangAfterResponse {
            progress.event(Event::SourceResponded);
        }
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if rate > 0 {
                super::tests::trickle(progress, rate);
            }
        }
    }

    fn source_state(&self, image: &ImageRef<'static>) -> SourceState {
        let is_shared = self.kind == Kind::OneAddress && !image.host().contains("good");
        SourceState {
            address: is_shared.then_some(IpAddr::from([192, 0, 2, 1])),
            is_paused: false,
        }
    }
}

impl Kind {
    fn image(self, number: usize) -> String {
        match self {
            Self::InventedNames => format!("registry.evil.io/account/app{number}:1"),
            Self::Subdomains => format!("h{number}.evil.io/app:1"),
            _ => format!("evil{number}.io/app:1"),
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Hang => "domains that never respond",
            Self::HangAfterResponse => "domains that respond with a manifest and then hang",
            Self::Trickle => "domains that send 27 kB/s",
            Self::SlowButAlive => "domains that send 80 kB/s, without end",
            Self::Huge => "domains that send 100 MB/s, without end",
            Self::InventedNames => "invented names at one registry (404 after 0.3 s)",
            Self::NoSuchDomain => "domains that do not exist",
            Self::Subdomains => "subdomains of one domain that never respond",
            Self::OneAddress => "domains with one address that never responds",
        }
    }
}

impl Scene {
    /// From the request to the start.
    async fn simulate(&self) -> Duration {
        fastrand::seed(1);
        let sources = Arc::new(Sources {
            kind: self.kind,
            started: Mutex::default(),
        });
        let queue = CopyQueue::new(
            Arc::clone(&sources),
            SLOTS,
            CopyMetrics::register(&mut Metrics::new()),
        );
        let namespace = |name: &str| Requester::Namespaces(vec![name.into()]);
        // The registry has delivered another image before. The cluster uses something, so that slots are kept for that.
        let other = if matches!(self.honest, Honest::AskedOfNew | Honest::InUseOfNew) {
            "good-other.io/base:1"
        } else {
            "good.io/base:1"
        };
        let _ = queue.request(&other.parse().unwrap(), Task::Copy, &namespace("honest"));
        tokio::time::sleep(Duration::from_secs(10)).await;
        let hostile = match self.hostile {
            Lane::Requested => Requester::Admission,
            Lane::InUse => namespace("hostile"),
        };
        for number in 0..self.number {
            let image: ImageRef<'static> = self.kind.image(number).parse().unwrap();
            let _ = queue.request(&image, Task::Copy, &hostile);
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let honest = match self.honest {
            Honest::InUse | Honest::InUseOfNew => namespace("honest"),
            Honest::AskedOfProven | Honest::AskedOfNew => Requester::Admission,
        };
        let requested = Instant::now();
        let image: ImageRef<'static> = "good.io/app:1".parse().unwrap();
        let _ = queue.request(&image, Task::Copy, &honest);
        let started = loop {
            if let Some(started) = *sources.started.lock().unwrap() {
                break started;
            }
            assert!(
                requested.elapsed() <= self.bound,
                "{:?} {} {:?} {:?}",
                self.kind,
                self.number,
                self.hostile,
                self.honest
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        queue.shutdown().await;
        started.duration_since(requested)
    }

    fn row(&self, simulated: Duration) -> String {
        let hostile = match self.hostile {
            Lane::Requested => "asked for",
            Lane::InUse => "in use, one namespace",
        };
        let honest = match self.honest {
            Honest::InUse => "in use, another namespace",
            Honest::InUseOfNew => "in use, another namespace, a new registry",
            Honest::AskedOfProven => "asked for, a registry that delivered before",
            Honest::AskedOfNew => "asked for, a new registry",
        };
        format!(
            "| {} {} | {hostile} | {honest} | {} s | {} s |\n",
            self.number,
            self.kind.describe(),
            seconds(self.bound),
            seconds(simulated),
        )
    }
}

fn seconds(time: Duration) -> u64 {
    time.as_millis().div_ceil(1000).try_into().unwrap()
}

fn scenes() -> Vec<Scene> {
    // A running copy is checked every half second, and one that ends is replaced at once.
    let margin = TICK * 2;
    let slots_of_untried = 2_usize;
    let mut scenes = Vec::new();
    for (kind, number, hold) in [
        (Kind::Hang, 2_000, RESPONSE_WITHIN),
        (Kind::HangAfterResponse, 2_000, RATE_PERIOD + TICK * 2),
        (Kind::Trickle, 2_000, RATE_PERIOD + TICK * 2),
        (Kind::SlowButAlive, 2_000, LONG_AFTER),
        (Kind::Huge, 2_000, LONG_AFTER),
        (Kind::InventedNames, 10_000, Duration::from_secs(1)),
        (Kind::NoSuchDomain, 2_000, Duration::from_secs(1)),
        (Kind::Subdomains, 10_000, RESPONSE_WITHIN),
        (Kind::OneAddress, 2_000, RESPONSE_WITHIN),
    ] {
        for hostile in [Lane::Requested, Lane::InUse] {
            if hostile == Lane::InUse && number > 2_000 {
                // A namespace has no more.
                continue;
            }
            for honest in [Honest::InUse, Honest::InUseOfNew, Honest::AskedOfProven] {
                scenes.push(Scene {
                    kind,
                    number,
                    hostile,
                    honest,
                    bound: hold + margin,
                });
            }
        }
    }
    // What nobody knows and nobody uses waits for its turn among as many others as there are.
    for (kind, number, hold) in [
        (Kind::Hang, 4, RESPONSE_WITHIN),
        (Kind::Hang, 100, RESPONSE_WITHIN),
        (Kind::Subdomains, 10_000, RESPONSE_WITHIN),
        (Kind::InventedNames, 10_000, Duration::from_secs(1)),
    ] {
        let sources: usize = match kind {
            Kind::Subdomains | Kind::InventedNames => 1,
            _ => number,
        };
        let turns = u32::try_from(sources.div_ceil(slots_of_untried)).unwrap();
        scenes.push(Scene {
            kind,
            number,
            hostile: Lane::Requested,
            honest: Honest::AskedOfNew,
            bound: (hold + margin) * turns,
        });
    }
    scenes
}

#[tokio::test(start_paused = true)]
async fn an_honest_image_starts_within_its_bound_and_the_docs_say_so() {
    let mut table = String::from(
        "| hostile images | requested | honest image | bound | simulated |\n|---|---|---|---|---|\n",
    );
    for scene in scenes() {
        let simulated = scene.simulate().await;
        write!(table, "{}", scene.row(simulated)).unwrap();
    }
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_FAIRNESS").is_some() {
        std::fs::write(PAGE, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
    } else {
        assert_eq!(found, table, "run this test with UPDATE_FAIRNESS=1");
    }
}
