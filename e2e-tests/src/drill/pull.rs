//! Pulls what workloads name, as a node would: with the Secret of their namespace, every byte.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use mirror_contract::ImageRef;

use super::estate::{Estate, PULL_SECRET};
use super::report::Report;
use super::state::{Stored, version_of};
use crate::manifests::{Kind, spec_of};
use testkit::digest;
use testkit::fixtures::images_of;
use testkit::image::{Pulled, pull_all};

/// How many images the other client pulls too: it is a process each time.
const SKOPEO_PULLS: usize = 8;

/// The other client, if it is there, and what it has pulled.
struct Skopeo {
    is_there: bool,
    seen: BTreeSet<String>,
}

impl Skopeo {
    fn find() -> Self {
        Self {
            is_there: Command::new("skopeo").arg("--version").output().is_ok(),
            seen: BTreeSet::new(),
        }
    }

    /// Whether it shall pull this one too.
    fn takes(&mut self, image: &str) -> bool {
        self.is_there && self.seen.len() < SKOPEO_PULLS && self.seen.insert(image.to_owned())
    }
}

impl Estate {
    /// Pulls every image that any stored object names, and compares it with what was upstream.
    ///
    /// # Errors
    /// When the API server does not answer. What cannot be pulled is in the report.
    pub fn pull_everything(&self, report: &mut Report) -> anyhow::Result<()> {
        let stored = self.stored()?;
        for workload in &self.plan.workloads {
            let is_there = |stored: &Stored| {
                stored.kind == workload.kind && stored.name == workload.name && !stored.is_owned
            };
            if !stored.iter().any(is_there) {
                let title = format!("{} {}", workload.kind.name(), workload.name);
                report.problems.push(format!("{title} is not there"));
            }
        }
        self.pull_these(&stored, report, |_| true);
        Ok(())
    }

    /// The same, but not for images that are not rewritten: those of Jobs, and of objects of controllers, from before their
    /// copies. A new Pod of such a Job may name copies that no workload names.
    ///
    /// # Errors
    /// When the API server does not answer. What cannot be pulled is in the report.
    pub fn pull_copies(&self, report: &mut Report) -> anyhow::Result<()> {
        let stored = self.stored()?;
        self.pull_these(&stored, report, |image| self.is_copy(image));
        Ok(())
    }

    /// Pulls the images of the Pods of all workloads with copies. They must be originals by digest.
    ///
    /// # Errors
    /// When the API server does not answer. What cannot be pulled is in the report.
    pub fn pull_originals_of_pods(&self, report: &mut Report) -> anyhow::Result<()> {
        let stored = self.stored()?;
        // Jobs from before their copies have none.
        let uses_copies = |owner: &Stored| owner.images.iter().all(|image| self.is_copy(image));
        let workloads = stored.iter().filter(|stored| uses_copies(stored));
        let workloads: BTreeSet<_> = workloads
            .filter_map(|stored| stored.object["metadata"]["uid"].as_str())
            .collect();
        for pod in &stored {
            let owner = pod.object["metadata"]["ownerReferences"][0]["uid"].as_str();
            if pod.kind != Kind::Pod || owner.is_none_or(|owner| !workloads.contains(owner)) {
                continue;
            }
            report.row(Kind::Pod).objects += 1;
            for image in &pod.images {
                report.row(Kind::Pod).images += 1;
                match self.pull_original(pod, image) {
                    Ok(()) => report.row(Kind::Pod).pulled += 1,
                    Err(error) => {
                        let title = pod.title();
                        report.problems.push(format!("{title}, {image}: {error:#}"));
                    }
                }
            }
        }
        Ok(())
    }

    fn pull_original(&self, pod: &Stored, image: &str) -> anyhow::Result<()> {
        let reference = ImageRef::parse(image).map_err(|error| anyhow::anyhow!("{error}"))?;
        ensure!(
            reference.host() == self.upstream.localhost(),
            "it is not the original"
        );
        let digest = reference.digest().context("it has no digest")?.to_string();
        let mut planned = self.plan.images.iter();
        let planned = planned.find(|planned| planned.path == reference.path());
        let expected = planned.context("it is not in the plan")?.content.expected();
        ensure!(
            !pod.secrets.iter().any(|name| name == PULL_SECRET),
            "the Pod lists the Secret of the backup"
        );
        let pulled = pull_all(&self.upstream.client(), reference.path(), &digest)?;
        ensure!(pulled == expected, "it is another image");
        Ok(())
    }

    fn pull_these(&self, stored: &[Stored], report: &mut Report, is_pulled: impl Fn(&str) -> bool) {
        let originals = self.originals(stored, report);
        let mut skopeo = Skopeo::find();
        for object in stored {
            let images: Vec<_> = object.images.iter().filter(|it| is_pulled(it)).collect();
            report.row(object.kind).objects += usize::from(!images.is_empty());
            for image in images {
                report.row(object.kind).images += 1;
                let pulled = originals
                    .get(image)
                    .context("it is no copy of an image of the plan")
                    .and_then(|expected| {
                        self.pull(object, image, expected)?;
                        if skopeo.takes(image) {
                            self.pull_with_skopeo(object, image, &expected.root)?;
                            report.by_skopeo += 1;
                        }
                        Ok(())
                    });
                match pulled {
                    Ok(()) => report.row(object.kind).pulled += 1,
                    Err(error) => {
                        let title = object.title();
                        report.problems.push(format!("{title}, {image}: {error:#}"));
                    }
                }
            }
        }
    }

    /// What the copies that workloads and the objects of their controllers name must be: the image in the same place of the
    /// manifest that somebody wrote.
    fn originals(&self, stored: &[Stored], report: &mut Report) -> BTreeMap<String, Pulled> {
        let references = self.references();
        let planned: BTreeMap<_, _> = references.iter().zip(&self.plan.images).collect();
        let mut originals: BTreeMap<String, Pulled> = BTreeMap::new();
        for workload in &self.plan.workloads {
            let written = images_of(spec_of(&workload.manifest(&references, self.batch)));
            let prefix = format!("{}-", workload.name);
            let found = stored.iter().filter(|stored| {
                if stored.is_owned {
                    stored.name.starts_with(&prefix)
                } else {
                    stored.kind == workload.kind && stored.name == workload.name
                }
            });
            let images = found.flat_map(|found| written.iter().zip(&found.images));
            for (original, copy) in images {
                let Some(image) = planned.get(original) else {
                    continue;
                };
                let expected = image.content.expected();
                let other = originals.insert(copy.clone(), expected.clone());
                if other.is_some_and(|other| other != expected) {
                    report.problems.push(format!(
                        "{copy} stands for two images, one of them {original}"
                    ));
                }
            }
        }
        originals
    }

    fn pull(&self, object: &Stored, image: &str, expected: &Pulled) -> anyhow::Result<()> {
        ensure!(self.is_copy(image), "it is not in the backup");
        ensure!(
            object.secrets.iter().any(|name| name == PULL_SECRET),
            "the object names no pull Secret"
        );
        let (client, _) = self.puller_of(&object.namespace)?;
        let reference = ImageRef::parse(image).map_err(|error| anyhow::anyhow!("{error}"))?;
        let pulled = pull_all(&client, reference.path(), &version_of(image)?)?;
        ensure!(pulled == *expected, "it is not what was upstream");
        Ok(())
    }

    /// skopeo takes no tag beside a digest.
    fn pull_with_skopeo(&self, object: &Stored, image: &str, root: &str) -> anyhow::Result<()> {
        let (_, config) = self.puller_of(&object.namespace)?;
        let folder = tempfile::tempdir()?;
        let authfile = folder.path().join("auth.json");
        std::fs::write(&authfile, config)?;
        let reference = ImageRef::parse(image).map_err(|error| anyhow::anyhow!("{error}"))?;
        let repository = format!("{}/{}", reference.host(), reference.path());
        let source = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => format!("docker://{repository}@{digest}"),
            (None, Some(tag)) => format!("docker://{repository}:{tag}"),
            (None, None) => bail!("neither tag nor digest"),
        };
        let output = Command::new("skopeo")
            .args(["copy", "--quiet", "--all", "--preserve-digests"])
            .arg("--src-tls-verify=false")
            .arg("--authfile")
            .arg(&authfile)
            .arg(source)
            .arg(format!("dir:{}", folder.path().join("image").display()))
            .output()?;
        ensure!(
            output.status.success(),
            "skopeo: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let manifest = std::fs::read(folder.path().join("image/manifest.json"))?;
        ensure!(
            digest::of(&manifest) == root,
            "skopeo pulled another manifest"
        );
        Ok(())
    }
}
