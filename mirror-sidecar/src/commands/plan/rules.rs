//! The rules that decide: those of a file, of the policies in a cluster, or of flags.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use mirror_contract::NamespacePattern;

use super::backups::Backups;
use crate::args::PlanArgs;
use crate::cluster::api_server::ApiServer;
use crate::cluster::policies::file::SettingsFile;
use crate::cluster::policies::follow::{Filter, Followed};
use crate::cluster::policies::{Fallback, Policies, Policy, PolicySet};
use crate::cluster::workload::Labels;
use crate::cluster::{Kind, Object, listing, run};

pub(super) struct Rules {
    pub(super) policies: Arc<PolicySet>,
    /// Excluded namespaces of flags, for the case that there are no policies.
    pub(super) excluded: Vec<NamespacePattern<'static>>,
    /// The labels of the namespaces of the cluster.
    pub(super) namespaces: BTreeMap<Arc<str>, Labels>,
    pub(super) warnings: Vec<String>,
    /// The cluster, if the rules or the workloads are in one.
    pub(super) server: Option<ApiServer>,
}

impl Rules {
    pub(super) async fn load(args: &PlanArgs, backups: &Backups) -> anyhow::Result<Self> {
        let selection = &args.selection;
        let is_live = args.files.is_empty() && args.images.is_empty();
        let filter = selection.followed_policies();
        let policies = Policies::default();
        let mut rules = Self {
            policies: policies.current(),
            excluded: selection.exclude_namespaces.clone(),
            namespaces: BTreeMap::new(),
            warnings: Vec::new(),
            server: None,
        };
        if is_live || filter.is_set() {
            let connected = run::connect(|reason| {
                format!(
                    "cannot find a cluster: {reason}; set KUBECONFIG, or plan for manifests with --file or for images"
                )
            });
            rules.server = Some(connected.await?);
        }
        if let Some(path) = &selection.policy_settings {
            let file = SettingsFile::load(path.clone(), policies.clone(), backups.follow.clone())?;
            rules.policies = policies.current();
            drop(file);
        } else if let Some(server) = rules.server.clone() {
            rules
                .follow(args, filter, policies, backups, &server)
                .await?;
        }
        Ok(rules)
    }

    /// Reads the policies and the namespaces of the cluster.
    async fn follow(
        &mut self,
        args: &PlanArgs,
        filter: Filter,
        policies: Policies,
        backups: &Backups,
        server: &ApiServer,
    ) -> anyhow::Result<()> {
        // Without flags, all policies with an address of a service.
        let skip_owners = args.selection.skip_owners();
        let fallback = Fallback::of(&backups.config.locations());
        let fallback = Policy::of_flags(self.excluded.iter(), &skip_owners, fallback);
        let followed = Followed::new(filter, fallback, policies.clone());
        listing::policies(server, &followed).await?;
        self.policies = policies.current();
        let invalid = followed.invalid();
        for policy in &*invalid.borrow() {
            self.warnings.push(format!(
                "policy {} cannot be parsed, so that all its images count as copied: {}",
                policy.id.name, policy.error
            ));
        }
        for rule in self.policies.unusable_rules(&backups.config.locations()) {
            self.warnings.push(rule.reason);
        }
        let namespaces = Arc::new(Mutex::new(BTreeMap::new()));
        let filled = Arc::clone(&namespaces);
        let take = move |object| {
            if let Object::Namespace(namespace) = object {
                let mut filled = filled.lock().unwrap_or_else(PoisonError::into_inner);
                filled.insert(namespace.name, namespace.labels);
            }
        };
        listing::objects(server, &[Kind::Namespace], take).await?;
        let mut namespaces = namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        self.namespaces = std::mem::take(&mut *namespaces);
        Ok(())
    }
}
