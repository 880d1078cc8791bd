//! A copy that is cut off at any point leaves no tag on anything incomplete, and the next one finishes it.
//!
//! The points are chosen by a seed and count progress, not time: after so many requests to the target, or after so many
//! bytes. Nothing reaches the target from then on, however slowly the copy dies. Real registries refuse manifests whose parts are missing, which would hide a wrong order as
//! an error; so the same is done to a registry that takes everything.

mod line;
mod run;

use std::collections::BTreeSet;

use rstest::rstest;
use serde_json::json;
use testkit::image::{Image, SizedLayer, media_type, pull_all};
use testkit::registry::{Document, Registry, RegistryClient, start_registry};
use testkit::scripted::Fake;
use tokio::runtime::Runtime;

use line::{Line, Point};
use run::{End, Run};

/// Copies that are killed.
const KILLS: usize = 50;
/// Copies that are told to stop.
const STOPS: usize = 8;
/// Runs until the last of them at most: some are done before their point comes.
const MOST_RUNS: usize = 400;
/// Where the images are.
const SOURCE: &str = "team/app";
/// Seed of the points. Another one is as good.
const SEED: u64 = 1;

/// A registry to copy to.
enum Target {
    Real(Box<dyn Registry>),
    /// It takes every manifest, whatever is missing.
    Trusting(
        Fake,
        #[expect(dead_code, reason = "serves while it lives")] Runtime,
    ),
}

impl Target {
    fn real() -> Self {
        Self::Real(start_registry().unwrap())
    }

    fn trusting() -> Self {
        let runtime = Runtime::new().unwrap();
        let fake = runtime.block_on(Fake::start());
        fake.set(|knobs| knobs.verify = false);
        Self::Trusting(fake, runtime)
    }

    fn address(&self) -> String {
        match self {
            Self::Real(registry) => registry.address(),
            Self::Trusting(fake, _) => fake.host(),
        }
    }
}

/// An image with several platforms and layers of every size, and a signature of it.
struct Signed {
    image: Image,
    signature: Image,
}

impl Signed {
    /// `base` is a layer that others have as well.
    fn new(seed: u64, base: &SizedLayer) -> Self {
        let platform = |seed| {
            [1_200_000, 200_000, 3000]
                .map(|size| SizedLayer::new(seed + size, size))
                .into_iter()
                .chain([base.clone()])
                .collect()
        };
        let image = Image::of_platforms(&[platform(seed), platform(seed + 1)]);
        let signature = Image::referrer(image.root(), "example/signature", b"signed");
        Self { image, signature }
    }

    /// Pushes both, and the list of referrers for registries that have no API for it.
    fn push(&self, registry: &RegistryClient, tag: &str) {
        self.image.push(registry, SOURCE, tag).unwrap();
        let name = format!("signature-of-{tag}");
        self.signature.push(registry, SOURCE, &name).unwrap();
        let signature = self.signature.root();
        let list = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_INDEX,
            "manifests": [{
                "mediaType": signature.media_type,
                "digest": signature.digest(),
                "size": signature.bytes.len(),
                "artifactType": "example/signature",
            }],
        });
        let list = Document {
            media_type: media_type::OCI_INDEX.to_owned(),
            bytes: list.to_string().into(),
        };
        let fallback = self.image.digest().replace(':', "-");
        registry.push_manifest(SOURCE, &fallback, &list).unwrap();
    }
}

/// Two images, a registry that has them, and one that shall get them.
struct World {
    source: Box<dyn Registry>,
    #[expect(dead_code, reason = "serves while it lives")]
    target: Target,
    /// Straight to the target.
    client: RegistryClient,
    /// What the copies go through.
    line: Line,
    images: [Signed; 2],
    random: fastrand::Rng,
    /// What a copy that nobody cuts off sends to the target, in requests and in bytes.
    whole: (usize, u64),
}

/// One copy to make: this image, under this tag.
const TASKS: [(usize, &str); 3] = [(0, "v1"), (1, "v2"), (1, "v1")];

impl World {
    fn new(target: Target) -> Self {
        let base = SizedLayer::new(7, 1_500_000);
        let images = [100, 200].map(|seed| Signed::new(seed, &base));
        let source = start_registry().unwrap();
        for (number, image) in images.iter().enumerate() {
            image.push(&source.client(), &format!("image-{number}"));
        }
        let mut world = Self {
            line: Line::to(&target.address()),
            client: RegistryClient::new(&target.address(), None, None),
            random: fastrand::Rng::with_seed(SEED),
            whole: (0, 0),
            source,
            target,
            images,
        };
        world.copy("copies/whole", TASKS[0]);
        world.whole = world.line.passed();
        let (requests, bytes) = world.whole;
        assert!(requests > 10 && bytes > world.images[0].image.size());
        world
    }

    fn start(&self, repository: &str, (image, tag): (usize, &str), point: Point) -> Run {
        let source = self.source.address();
        let from = format!("{source}/{SOURCE}:image-{image}");
        let to = format!("{}/{repository}:{tag}", self.line.address());
        let insecure = [source, self.line.address().to_owned()];
        Run::start(&from, &to, &insecure, &self.line, point)
    }

    /// Copies undisturbed.
    fn copy(&self, repository: &str, task: (usize, &str)) {
        let end = self.start(repository, task, Point::Never).wait();
        assert!(
            matches!(end, End::Finished(status) if status.success()),
            "{end:?}"
        );
    }

    fn any_point(&mut self) -> Point {
        let (requests, bytes) = self.whole;
        match self.random.u8(0..4) {
            0 => Point::Before(self.random.usize(1..=requests)),
            1 => Point::After(self.random.usize(1..=requests)),
            _ => Point::Byte(self.random.u64(0..bytes)),
        }
    }

    /// Every tag stands for something whole, and for one of the images or for a list of their signatures.
    fn check(&self, repository: &str, point: Point) {
        for tag in self.client.tags(repository).unwrap() {
            let pulled = pull_all(&self.client, repository, &tag);
            let pulled = pulled.unwrap_or_else(|error| {
                panic!("{repository}:{tag} is incomplete after {point:?}: {error:#}")
            });
            let is_list = tag.starts_with("sha256-");
            let mut images = self.images.iter();
            assert!(
                is_list || images.any(|signed| signed.image.expected() == pulled),
                "{repository}:{tag} is none of the images after {point:?}"
            );
        }
    }

    /// Copies again, undisturbed: everything is there then, byte for byte.
    fn finish(&self, repository: &str) {
        for task in TASKS {
            self.copy(repository, task);
        }
        for (image, tag) in [(1, "v1"), (1, "v2")] {
            let pulled = pull_all(&self.client, repository, tag).unwrap();
            assert_eq!(pulled, self.images[image].image.expected());
        }
        for Signed { image, signature } in &self.images {
            let digest = signature.digest();
            let pulled = pull_all(&self.client, repository, &digest).unwrap();
            assert_eq!(pulled, signature.expected(), "of {}", image.digest());
        }
        self.check(repository, Point::Never);
    }

    /// Cuts off one copy after the other, until it was done `times` times: the same copy is made again until it is
    /// whole, then comes the next one, in the end into a new repository.
    fn cut_off(&mut self, times: usize, cut: fn(Run) -> End) {
        let mut repositories = BTreeSet::new();
        let (mut task, mut cuts) = (0, 0);
        for _ in 0..MOST_RUNS {
            let repository = format!("copies/app-{}", task / TASKS.len());
            let point = self.any_point();
            let run = self.start(&repository, TASKS[task % TASKS.len()], point);
            match cut(run) {
                End::CutOff => cuts += 1,
                End::Finished(status) => {
                    assert!(status.success(), "{status} before {point:?}");
                    task += 1;
                }
            }
            self.check(&repository, point);
            repositories.insert(repository);
            if cuts == times {
                break;
            }
        }
        assert_eq!(cuts, times, "too many copies were done before their point");
        for repository in repositories {
            self.finish(&repository);
        }
    }
}

#[rstest]
#[case::by_real_registries(Target::real())]
#[case::by_a_registry_that_takes_everything(Target::trusting())]
fn a_killed_copy_leaves_no_incomplete_tag(#[case] target: Target) {
    World::new(target).cut_off(KILLS, Run::kill_at_point);
}

#[test]
fn a_copy_that_is_told_to_stop_does_so_at_once_and_leaves_no_incomplete_tag() {
    World::new(Target::real()).cut_off(STOPS, Run::stop_at_point);
}
