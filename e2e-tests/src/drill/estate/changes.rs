//! What users and operators do.

use std::fs;

use anyhow::Context as _;

use super::{Estate, PULLER};
use crate::drill::owned;
use crate::drill::plan::PlannedImage;
use crate::manifests::Kind;
use testkit::registry::Credential;

impl Estate {
    /// Creates a workload of the plan, and what controllers would make of it.
    ///
    /// # Errors
    /// What the API server answers.
    pub fn create(&self, number: usize) -> anyhow::Result<()> {
        let workload = self.workload(number)?;
        let namespace = self
            .namespaces
            .get(workload.namespace)
            .context("no such namespace")?;
        let manifest = workload.manifest(&self.references(), self.batch);
        let stored = namespace
            .create(&manifest)
            .with_context(|| format!("{} {}", workload.kind.name(), workload.name))?;
        owned::make(namespace, &stored).with_context(|| format!("below {}", workload.name))
    }

    /// Deletes a namespace with all that is in it, and makes both again.
    ///
    /// # Errors
    /// What the API server answers.
    pub fn make_namespace_again(&mut self, number: usize) -> anyhow::Result<()> {
        let namespace = self.namespaces.get(number).context("no such namespace")?;
        let mut contents: Vec<_> = Kind::ALL
            .iter()
            .map(|kind| (kind.api_version(self.batch), kind.name()))
            .collect();
        contents.extend([("v1", "Secret"), ("v1", "ServiceAccount")]);
        namespace.remove(&contents)?;
        namespace.make_again()?;
        for (workload, planned) in self.plan.workloads.iter().enumerate() {
            if planned.namespace == number {
                self.create(workload)?;
            }
        }
        if let Some(count) = self.made_again.get_mut(number) {
            *count += 1;
        }
        Ok(())
    }

    /// How often a namespace was made again.
    #[must_use]
    pub fn times_made_again(&self, namespace: &str) -> usize {
        let mut counts = self.namespaces.iter().zip(&self.made_again);
        counts
            .find(|(known, _)| known.name() == namespace)
            .map_or(0, |(_, count)| *count)
    }

    /// Puts an image upstream.
    ///
    /// # Errors
    /// When the registry refuses.
    pub fn push(&self, image: &PlannedImage) -> anyhow::Result<()> {
        let client = self.upstream.client();
        image.content.push(&client, &image.path, &image.tag)?;
        Ok(())
    }

    /// Gives Pods another password to pull with, and the sidecars the file with it.
    ///
    /// # Errors
    /// When the registry or the system refuses.
    pub fn rotate_pull_password(&mut self, password: &str) -> anyhow::Result<()> {
        self.puller = Credential::new(PULLER, password);
        self.let_in(&self.puller)
    }

    pub(super) fn let_in(&self, puller: &Credential) -> anyhow::Result<()> {
        self.backup.set_other_users(std::slice::from_ref(puller))?;
        // Never half a file, as in a mounted Secret.
        let file = self.password_file();
        fs::write(file.with_extension("new"), &puller.password)?;
        fs::rename(file.with_extension("new"), file)?;
        Ok(())
    }
}
