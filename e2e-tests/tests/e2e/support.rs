//! A small world: an upstream and a backup registry, the real sidecar between them, and the policy in its host.

use std::collections::BTreeMap;
use std::time::Duration;

use mirror_contract::ImageRef;
use serde_json::{Value, json};
use testkit::host::{Evaluation, PolicyHost};
use testkit::image::{Image, Pulled, pull_all};
use testkit::registry::{Credential, Registry, start_registry, start_registry_with};
use testkit::sidecar::{Sidecar, SidecarBuilder};
use testkit::{artifacts, fixtures};

/// The repository in the backup registry.
pub const REPOSITORY: &str = "acme/mirror";
/// How long a copy may take on a busy machine.
pub const COPY_DEADLINE: Duration = Duration::from_mins(1);

pub struct World {
    pub upstream: Box<dyn Registry>,
    pub backup: Box<dyn Registry>,
    pub sidecar: Sidecar,
    pub host: PolicyHost,
}

/// What a review's images are, after they were put upstream: reference → what can be pulled there.
pub type Stock = BTreeMap<String, Pulled>;

impl World {
    pub fn start() -> Self {
        Self::with(|sidecar| sidecar)
    }

    /// A world whose sidecar is started with more arguments.
    pub fn with(configure: impl FnOnce(SidecarBuilder) -> SidecarBuilder) -> Self {
        let upstream = start_registry().unwrap();
        let backup = start_registry_with(Some(Credential::new("pusher", "p4ss word"))).unwrap();
        let builder = Sidecar::builder()
            .registry(backup.as_ref(), REPOSITORY)
            .insecure_registry(&upstream.localhost());
        let sidecar = configure(builder).start().unwrap();
        let host = policy(&sidecar);
        Self {
            upstream,
            backup,
            sidecar,
            host,
        }
    }

    /// The defaults, but with time for a busy machine: the budget has tests of its own.
    pub fn settings(&self) -> Value {
        json!({ "sidecar": self.sidecar.facade(), "timeBudgetMs": 20_000 })
    }

    pub fn admit(&self, review: &Value, settings: &Value) -> Evaluation {
        self.host.evaluate(review, settings).unwrap()
    }

    /// Puts a multi-platform image behind every reference of a review, which is made to name them upstream.
    pub fn stock(&self, review: &mut Value) -> Stock {
        fixtures::move_images(review, &self.upstream.localhost());
        let mut names = BTreeMap::<String, String>::new();
        let mut stock = Stock::new();
        fixtures::replace_images(review, &mut |text| {
            if let Some(name) = names.get(text) {
                return Some(name.clone());
            }
            let image = ImageRef::parse(text).ok()?;
            let content = Image::index(names.len() as u64);
            let tag = image.tag().unwrap_or("by-digest");
            let digest = content
                .push(&self.upstream.client(), image.path(), tag)
                .unwrap();
            let name = match image.digest() {
                // The fixture's digest is that of an image which is not here.
                Some(_) => format!("{}/{}@{digest}", image.host(), image.path()),
                None => text.to_owned(),
            };
            names.insert(text.to_owned(), name.clone());
            stock.insert(name.clone(), content.expected());
            Some(name)
        });
        stock
    }

    pub fn wait_until_copied(&self, images: impl IntoIterator<Item = impl AsRef<str>>) {
        for image in images {
            let canonical = ImageRef::parse(image.as_ref())
                .unwrap()
                .without_redundant_tag()
                .to_string();
            self.sidecar
                .wait_for(COPY_DEADLINE, |event| {
                    event["message"] == "copied image" && event["image"] == canonical
                })
                .unwrap();
        }
    }

    /// Puts an image upstream and has a Pod that uses it admitted until it uses the copy; gives the copy's reference.
    pub fn mirror(&self, image: &Image, repository: &str, tag: &str) -> String {
        image
            .push(&self.upstream.client(), repository, tag)
            .unwrap();
        let original = format!("{}/{repository}:{tag}", self.upstream.localhost());
        let mut review = fixtures::load("pod-create");
        fixtures::replace_images(&mut review, &mut |_| Some(original.clone()));
        self.admit(&review, &self.settings());
        self.wait_until_copied([&original]);
        let mutated = self.admit(&review, &self.settings()).mutated.unwrap();
        fixtures::images_of(&mutated).remove(0)
    }

    /// What the backup registry gives for a rewritten reference.
    pub fn pull_copy(&self, reference: &str) -> Pulled {
        let image = ImageRef::parse(reference).unwrap();
        assert_eq!(image.host(), self.backup.address(), "{reference}");
        let version = match image.digest() {
            Some(digest) => digest.to_string(),
            None => image.tag().unwrap().to_owned(),
        };
        pull_all(&self.backup.client(), image.path(), &version).unwrap()
    }
}

/// The real policy, told how to reach the sidecar.
pub fn policy(sidecar: &Sidecar) -> PolicyHost {
    let host = policy_builder().epoch_ticks(60);
    sidecar.trusted_by(host).build().unwrap()
}

pub fn policy_builder() -> testkit::host::PolicyHostBuilder {
    let wasm = std::fs::read(artifacts::policy_module().unwrap()).unwrap();
    PolicyHost::builder(wasm).allow_capabilities(["oci/v1/oci_manifest"])
}

/// The warnings of an evaluation.
pub fn warnings(evaluation: &Evaluation) -> Vec<String> {
    evaluation.response.warnings.clone().unwrap_or_default()
}

/// Asserts that the request passed and nothing was changed.
pub fn assert_untouched(evaluation: &Evaluation) {
    assert!(evaluation.response.allowed, "{:?}", evaluation.response);
    assert_eq!(evaluation.mutated, None);
}
