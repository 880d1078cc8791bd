//! A second registration of the policy's webhook, so that containers which other webhooks inject are rewritten too.
//!
//! Kubewarden registers the webhook without a `reinvocationPolicy`, and the API server calls webhooks in the order of the names
//! of their configurations. The second configuration sorts last, has `reinvocationPolicy: IfNeeded`, and is for new Pods only.
//! The chart creates it without webhooks. This module copies them from Kubewarden's configuration and keeps them up to date,
//! because its CA is rotated. It creates and deletes nothing, so it needs no permission to do so.

use std::time::Duration;

use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Error};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::api_server::ApiServer;
use super::json_fields::list;
use super::replicas::Replicas;

/// Interval of checks: the longest time for which a rotated CA is missing in the second configuration.
const INTERVAL: Duration = Duration::from_secs(10);

/// Longest time for one check.
const TIMEOUT: Duration = Duration::from_secs(30);

const FIELD_MANAGER: &str = "mirror-sidecar";

#[derive(Clone)]
pub(super) struct Reinvocation {
    server: ApiServer,
    replicas: Replicas,
    /// Name of the configuration that Kubewarden creates for the `ClusterAdmissionPolicy`.
    original: String,
    /// Name of the second configuration.
    second: String,
}

#[derive(Debug, thiserror::Error)]
enum ReinvocationError {
    #[error(
        "cannot read or patch a MutatingWebhookConfiguration: {0}; check the ClusterRole of mirror-sidecar"
    )]
    Api(#[from] Error),
    #[error(
        "no response from the API server within {} s; check the API server and the network",
        TIMEOUT.as_secs()
    )]
    Slow,
    #[error(
        "there is no MutatingWebhookConfiguration {0}: set policy.reinvocation in the chart, which creates it"
    )]
    NoSecond(String),
    #[error(
        "there is no MutatingWebhookConfiguration {0}: check that the ClusterAdmissionPolicy exists and is active"
    )]
    NoOriginal(String),
    #[error(
        "no rule of the MutatingWebhookConfiguration {0} is for the creation of Pods: add pods to the policy's rules"
    )]
    NoRule(String),
}

impl Reinvocation {
    /// For the `ClusterAdmissionPolicy` of this name.
    pub(super) fn new(server: ApiServer, replicas: Replicas, policy: &str) -> Self {
        Self {
            server,
            replicas,
            original: format!("clusterwide-{policy}"),
            second: format!("zz-{policy}-reinvocation"),
        }
    }

    /// Keeps the second configuration up to date until it is dropped, if this replica owns it.
    pub(super) async fn run(self) {
        let mut shares = self.replicas.subscribe();
        let mut reported = None;
        loop {
            if self.replicas.owns(&format!("webhook/{}", self.second)) {
                let result = timeout(TIMEOUT, self.sync()).await;
                let error = result.unwrap_or(Err(ReinvocationError::Slow)).err();
                self.report(error.as_ref(), &mut reported);
            }
            tokio::select! {
                () = sleep(INTERVAL) => {}
                _ = shares.changed() => {}
            }
        }
    }

    /// Logs an error once, and its end once.
    fn report(&self, error: Option<&ReinvocationError>, reported: &mut Option<String>) {
        let Some(error) = error else {
            if reported.take().is_some() {
                tracing::info!(
                    webhook = self.second,
                    "images of injected containers are rewritten again"
                );
            }
            return;
        };
        if let ReinvocationError::Api(source) = error
            && self.server.explains(source, reported.is_none())
        {
            return;
        }
        let text = error.to_string();
        if reported.as_ref() != Some(&text) {
            tracing::warn!(
                webhook = self.second,
                error = text,
                "images of injected containers are not rewritten"
            );
            *reported = Some(text);
        }
    }

    async fn sync(&self) -> Result<(), ReinvocationError> {
        let second = self.get(&self.second).await?;
        let second = second.ok_or_else(|| ReinvocationError::NoSecond(self.second.clone()))?;
        let original = self.get(&self.original).await?;
        let wanted = original.as_ref().map(reinvoked).unwrap_or_default();
        if webhooks(&second) != wanted {
            let params = PatchParams {
                field_manager: Some(FIELD_MANAGER.into()),
                ..PatchParams::default()
            };
            let patch = Patch::Merge(json!({ "webhooks": wanted }));
            let result = self.api().patch(&self.second, &params, &patch).await;
            self.server.observe(&result);
            result?;
            tracing::info!(
                webhook = self.second,
                webhooks = wanted.len(),
                "updated the second registration of the policy"
            );
        }
        match original {
            None => Err(ReinvocationError::NoOriginal(self.original.clone())),
            Some(_) if wanted.is_empty() => Err(ReinvocationError::NoRule(self.original.clone())),
            Some(_) => Ok(()),
        }
    }

    async fn get(&self, name: &str) -> Result<Option<DynamicObject>, Error> {
        let result = self.api().get_opt(name).await;
        self.server.observe(&result);
        result
    }

    fn api(&self) -> Api<DynamicObject> {
        // A dynamic object keeps fields that this version does not know.
        let kind = GroupVersionKind::gvk(
            "admissionregistration.k8s.io",
            "v1",
            "MutatingWebhookConfiguration",
        );
        Api::all_with(self.server.client().clone(), &ApiResource::from_gvk(&kind))
    }
}

fn webhooks(configuration: &DynamicObject) -> Vec<Value> {
    list(&configuration.data, "webhooks").to_vec()
}

/// Returns the webhooks for new Pods as they are registered a second time.
fn reinvoked(original: &DynamicObject) -> Vec<Value> {
    let webhooks = webhooks(original).into_iter();
    let reinvoked = webhooks.filter_map(|mut webhook| {
        let rules = list(&webhook, "rules").iter();
        let rules: Vec<_> = rules.filter_map(for_new_pods).collect();
        if rules.is_empty() {
            return None;
        }
        let fields = webhook.as_object_mut()?;
        fields.insert("rules".into(), rules.into());
        fields.insert("reinvocationPolicy".into(), "IfNeeded".into());
        Some(webhook)
    });
    reinvoked.collect()
}

/// Returns the part of a rule that matches the creation of Pods.
fn for_new_pods(rule: &Value) -> Option<Value> {
    let names = |field: &str, names: &[&str]| {
        let mut listed = list(rule, field).iter().filter_map(Value::as_str);
        listed.any(|name| names.contains(&name))
    };
    let is_for_pods = names("apiGroups", &["", "*"])
        && names("resources", &["pods", "*", "*/*"])
        && names("operations", &["CREATE", "*"])
        && names("apiVersions", &["v1", "*"]);
    is_for_pods.then(|| {
        let scope = rule.get("scope").and_then(Value::as_str);
        json!({
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "resources": ["pods"],
            "operations": ["CREATE"],
            "scope": scope.unwrap_or("*"),
        })
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn configuration(rules: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": "clusterwide-image-mirror" },
            "webhooks": [{
                "name": "image-mirror.kubewarden.admission",
                "clientConfig": { "caBundle": "Y2E=", "service": { "name": "s", "namespace": "n" } },
                "fieldOfTheFuture": { "a": 1 },
                "failurePolicy": "Ignore",
                "reinvocationPolicy": "Never",
                "rules": rules,
            }],
        }))
        .unwrap()
    }

    #[test]
    fn the_webhook_is_the_same_but_for_rules_and_reinvocation() {
        let rules = json!([
            { "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "operations": ["CREATE"] },
            {
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods", "pods/ephemeralcontainers"],
                "operations": ["CREATE", "UPDATE"], "scope": "Namespaced",
            },
        ]);
        let expected = json!([{
            "name": "image-mirror.kubewarden.admission",
            "clientConfig": { "caBundle": "Y2E=", "service": { "name": "s", "namespace": "n" } },
            "fieldOfTheFuture": { "a": 1 },
            "failurePolicy": "Ignore",
            "reinvocationPolicy": "IfNeeded",
            "rules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"],
                "scope": "Namespaced",
            }],
        }]);
        assert_eq!(Value::from(reinvoked(&configuration(&rules))), expected);
    }

    #[rstest]
    #[case::everything("*", "*", "*", true)]
    #[case::updates("", "pods", "UPDATE", false)]
    #[case::subresource("", "pods/ephemeralcontainers", "CREATE", false)]
    #[case::another_group("example.com", "pods", "CREATE", false)]
    fn only_rules_for_new_pods_are_taken(
        #[case] group: &str,
        #[case] resource: &str,
        #[case] operation: &str,
        #[case] is_taken: bool,
    ) {
        let rules = json!([{
            "apiGroups": [group], "apiVersions": ["v1"], "resources": [resource], "operations": [operation],
        }]);
        assert_eq!(
            reinvoked(&configuration(&rules)).len(),
            usize::from(is_taken)
        );
    }
}
