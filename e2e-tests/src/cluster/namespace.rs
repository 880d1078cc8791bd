//! A namespace, and what a test does with the objects in it.

use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use kube::api::{
    DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, TypeMeta,
};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, Error};
use serde_json::{Value, json};

use super::access::call;
use super::external::LABEL;

/// Who applies, for server-side apply.
const FIELD_MANAGER: &str = "tests";

/// How often the API server is asked whether it has noticed something, and the pause in between: 20 seconds in all.
const SETTLING: usize = 400;
const SETTLE: Duration = Duration::from_millis(50);

/// A namespace as one client sees it. Objects are plain JSON, as in a manifest; every method blocks.
#[derive(Clone)]
pub struct Namespace {
    name: String,
    client: Client,
    dry_run: bool,
}

impl Namespace {
    /// Makes the namespace and its `default` `ServiceAccount`, without which no Pod is admitted.
    pub(super) fn make(client: Client, name: &str) -> anyhow::Result<Self> {
        let namespace = Self {
            name: name.to_owned(),
            client,
            dry_run: false,
        };
        namespace.make_again()?;
        Ok(namespace)
    }

    /// Makes the namespace once more, after [`Self::remove`].
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn make_again(&self) -> anyhow::Result<()> {
        let object = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            // Newer API servers add it by themselves.
            "metadata": { "name": self.name, "labels": { "kubernetes.io/metadata.name": self.name } },
        });
        create_global(&self.client, &object)?;
        for _ in 0..SETTLING {
            match self.service_account("default", &[]) {
                // A controller was faster.
                Err(Error::Api(status)) if status.is_already_exists() => return Ok(()),
                // The predecessor is still in the API server's cache.
                Err(Error::Api(status)) if status.is_forbidden() => thread::sleep(SETTLE),
                result => return Ok(result.map(drop)?),
            }
        }
        anyhow::bail!("the namespace {} takes no objects", self.name)
    }

    /// Deletes the namespace as its controller would do, which is not here: it is terminating, then what is in it goes,
    /// then it goes itself.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn remove(&self, contents: &[(&str, &str)]) -> anyhow::Result<()> {
        let object =
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": self.name } });
        delete_global(&self.client, &object)?;
        for (api_version, kind) in contents {
            for object in self.list(api_version, kind)? {
                self.delete(&object)?;
            }
        }
        let body = serde_json::to_vec(&json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": self.name }, "spec": { "finalizers": [] },
        }))?;
        let path = format!("/api/v1/namespaces/{}/finalize", self.name);
        let request = axum::http::Request::put(path)
            .header("content-type", "application/json")
            .body(body)?;
        call(self.client.request::<Value>(request))?;
        for _ in 0..SETTLING {
            let api = Api::<DynamicObject>::all_with(self.client.clone(), &resource(&object)?);
            match call(api.get(&self.name)) {
                Err(Error::Api(status)) if status.is_not_found() => return Ok(()),
                Err(error) => return Err(error.into()),
                Ok(_) => thread::sleep(SETTLE),
            }
        }
        anyhow::bail!("the namespace {} does not go", self.name)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same namespace as another user sees it.
    #[must_use]
    pub fn with(&self, client: Client) -> Self {
        Self {
            client,
            ..self.clone()
        }
    }

    /// The same namespace, but nothing is stored, as with `--dry-run=server`.
    #[must_use]
    pub fn dry_run(&self) -> Self {
        Self {
            dry_run: true,
            ..self.clone()
        }
    }

    /// Makes a `ServiceAccount` with these pull Secrets, whose Pods get no token: no controller makes one here.
    ///
    /// # Errors
    /// What the API server answers.
    pub fn service_account(&self, name: &str, pull_secrets: &[&str]) -> Result<Value, Error> {
        let secrets: Vec<_> = pull_secrets
            .iter()
            .map(|name| json!({ "name": name }))
            .collect();
        self.create(&json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": { "name": name },
            "automountServiceAccountToken": false,
            "imagePullSecrets": secrets,
        }))
    }

    /// Creates an object, and gives what is stored.
    ///
    /// # Errors
    /// What the API server answers, a refusal of a webhook included.
    pub fn create(&self, manifest: &Value) -> Result<Value, Error> {
        let params = PostParams {
            dry_run: self.dry_run,
            ..PostParams::default()
        };
        let object = serde_json::from_value(manifest.clone()).map_err(Error::SerdeError)?;
        to_value(call(self.api(manifest)?.create(&params, &object)))
    }

    /// Applies an object server-side, with force, and gives what is stored.
    ///
    /// # Errors
    /// What the API server answers, a refusal of a webhook included.
    pub fn apply(&self, manifest: &Value) -> Result<Value, Error> {
        let params = PatchParams::apply(FIELD_MANAGER).force();
        self.send_patch(manifest, params, &Patch::Apply(manifest))
    }

    /// Merges fields into an object (RFC 7386), and gives what is stored.
    ///
    /// # Errors
    /// What the API server answers, a refusal of a webhook included.
    pub fn merge(&self, manifest: &Value, fields: &Value) -> Result<Value, Error> {
        self.send_patch(manifest, PatchParams::default(), &Patch::Merge(fields))
    }

    /// Replaces an object as `kubectl replace` does, whatever its resource version is, and returns what is stored.
    ///
    /// # Errors
    /// What the API server answers, a refusal of a webhook included.
    pub fn replace(&self, manifest: &Value) -> Result<Value, Error> {
        let mut object = manifest.clone();
        let stored = self.get(manifest)?;
        object["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"].clone();
        let params = PostParams {
            dry_run: self.dry_run,
            ..PostParams::default()
        };
        let object = serde_json::from_value(object).map_err(Error::SerdeError)?;
        let api: Api<DynamicObject> = self.api(manifest)?;
        to_value(call(api.replace(name(manifest), &params, &object)))
    }

    /// Changes an object by the operations of a JSON patch (RFC 6902), and returns what is stored.
    ///
    /// # Errors
    /// What the API server answers, a refusal of a webhook included.
    pub fn json_patch(&self, manifest: &Value, operations: &Value) -> Result<Value, Error> {
        let path = format!("{}/{}", self.api(manifest)?.resource_url(), name(manifest));
        let request = axum::http::Request::patch(path)
            .header("content-type", "application/json-patch+json")
            .body(operations.to_string().into_bytes())
            .map_err(|error| Error::Service(error.into()))?;
        call(self.client.request::<Value>(request))
    }

    /// Merges fields into an object's status, as a controller or a kubelet does.
    ///
    /// # Errors
    /// What the API server answers.
    pub fn merge_status(&self, manifest: &Value, status: &Value) -> Result<Value, Error> {
        let api = self.api(manifest)?;
        let patch = Patch::Merge(json!({ "status": status }));
        to_value(call(api.patch_status(
            name(manifest),
            &PatchParams::default(),
            &patch,
        )))
    }

    /// What is stored of an object.
    ///
    /// # Errors
    /// What the API server answers; code 404 when there is none.
    pub fn get(&self, manifest: &Value) -> Result<Value, Error> {
        to_value(call(self.api(manifest)?.get(name(manifest))))
    }

    /// All objects of a kind.
    ///
    /// # Errors
    /// What the API server answers.
    pub fn list(&self, api_version: &str, kind: &str) -> Result<Vec<Value>, Error> {
        let api = self.api(&json!({ "apiVersion": api_version, "kind": kind }))?;
        list(&api, api_version, kind)
    }

    /// Deletes an object at once.
    ///
    /// # Errors
    /// What the API server answers; code 404 when there is none.
    pub fn delete(&self, manifest: &Value) -> Result<(), Error> {
        // Without this a Job would wait for a garbage collector to leave its Pods alone.
        let params = DeleteParams::background().grace_period(0);
        call(self.api(manifest)?.delete(name(manifest), &params)).map(drop)
    }

    fn send_patch(
        &self,
        manifest: &Value,
        mut params: PatchParams,
        patch: &Patch<&Value>,
    ) -> Result<Value, Error> {
        params.dry_run = self.dry_run;
        to_value(call(self.api(manifest)?.patch(
            name(manifest),
            &params,
            patch,
        )))
    }

    fn api(&self, manifest: &Value) -> Result<Api<DynamicObject>, Error> {
        let resource = resource(manifest)?;
        Ok(Api::namespaced_with(
            self.client.clone(),
            &self.name,
            &resource,
        ))
    }
}

/// Creates an object that lives in no namespace.
pub(super) fn create_global(client: &Client, manifest: &Value) -> anyhow::Result<()> {
    let api = Api::<DynamicObject>::all_with(client.clone(), &resource(manifest)?);
    let mut manifest = manifest.clone();
    let (key, value) = LABEL;
    manifest["metadata"]["labels"][key] = json!(value);
    let object = serde_json::from_value(manifest.clone())?;
    call(api.create(&PostParams::default(), &object))
        .with_context(|| format!("cannot create the {} {}", manifest["kind"], name(&manifest)))?;
    Ok(())
}

/// What is stored of an object that lives in no namespace.
pub(super) fn get_global(client: &Client, manifest: &Value) -> Result<Value, Error> {
    let api = Api::<DynamicObject>::all_with(client.clone(), &resource(manifest)?);
    to_value(call(api.get(name(manifest))))
}

/// Merges fields into an object that lives in no namespace.
pub(super) fn merge_global(
    client: &Client,
    manifest: &Value,
    fields: &Value,
) -> Result<Value, Error> {
    let api = Api::<DynamicObject>::all_with(client.clone(), &resource(manifest)?);
    let params = PatchParams::default();
    to_value(call(api.patch(
        name(manifest),
        &params,
        &Patch::Merge(fields),
    )))
}

/// Deletes an object that lives in no namespace.
pub(super) fn delete_global(client: &Client, manifest: &Value) -> Result<(), Error> {
    let api = Api::<DynamicObject>::all_with(client.clone(), &resource(manifest)?);
    call(api.delete(name(manifest), &DeleteParams::default())).map(drop)
}

/// All objects of a kind in all namespaces.
pub(super) fn list_everywhere(
    client: Client,
    api_version: &str,
    kind: &str,
) -> Result<Vec<Value>, Error> {
    let types = json!({ "apiVersion": api_version, "kind": kind });
    let api = Api::<DynamicObject>::all_with(client, &resource(&types)?);
    list(&api, api_version, kind)
}

/// Deletes all objects of a kind in all namespaces at once.
pub(super) fn delete_everywhere(
    client: &Client,
    api_version: &str,
    kind: &str,
) -> Result<(), Error> {
    for object in list_everywhere(client.clone(), api_version, kind)? {
        let namespace = object["metadata"]["namespace"].as_str();
        let namespace = Namespace {
            name: namespace.unwrap_or_default().to_owned(),
            client: client.clone(),
            dry_run: false,
        };
        match namespace.delete(&object) {
            Err(Error::Api(status)) if status.is_not_found() => {}
            result => result?,
        }
    }
    Ok(())
}

fn list(api: &Api<DynamicObject>, api_version: &str, kind: &str) -> Result<Vec<Value>, Error> {
    let list = call(api.list(&ListParams::default()))?;
    let objects = list.items.into_iter();
    objects
        .map(|object| Ok(with_type(to_value(Ok(object))?, api_version, kind)))
        .collect()
}

/// The same object with its type, which items of a list lack.
fn with_type(mut object: Value, api_version: &str, kind: &str) -> Value {
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    object
}

/// The resource of a manifest's kind; its plural is a good guess for all kinds of Kubernetes itself.
fn resource(manifest: &Value) -> Result<ApiResource, Error> {
    let types: TypeMeta = serde_json::from_value(manifest.clone()).map_err(Error::SerdeError)?;
    let kind = GroupVersionKind::try_from(types).map_err(|error| Error::Service(error.into()))?;
    Ok(ApiResource::from_gvk(&kind))
}

fn name(manifest: &Value) -> &str {
    manifest["metadata"]["name"].as_str().unwrap_or_default()
}

fn to_value(object: Result<DynamicObject, Error>) -> Result<Value, Error> {
    serde_json::to_value(object?).map_err(Error::SerdeError)
}
