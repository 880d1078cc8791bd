//! Reads the status API: through the API server's service proxy, or at a URL.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use axum::body::{Body, Bytes, to_bytes};
use hyper::{Request, StatusCode, Uri};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Api;
use kube::api::ListParams;
use kube::config::{Config, KubeConfigOptions};
use mirror_contract::ImageRef;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::args::{StatusArgs, UsageError};
use crate::status::http::{self, MAX_RESPONSE};
use crate::status::model::{ErrorBody, ImageList, ImageStatus, Overview};
use crate::status::query::{ImageQuery, RowKey};

/// Timeout of one request. The replica that responds waits up to 2 s for the others.
const WITHIN: Duration = Duration::from_secs(15);

/// The labels of the Service in the chart.
const LABELS: &str = "app.kubernetes.io/part-of=image-mirror,app.kubernetes.io/component=sidecar";

/// The name of the admin port in the chart.
const PORT: &str = "admin";

pub(super) enum Client {
    Url(Uri),
    Proxy {
        client: kube::Client,
        namespace: String,
        service: String,
    },
}

impl Client {
    pub(super) async fn new(args: &StatusArgs) -> anyhow::Result<Self> {
        if let Some(url) = &args.url {
            return Ok(Self::Url(url.clone()));
        }
        let options = KubeConfigOptions {
            context: args.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = if args.context.is_some() {
            Config::from_kubeconfig(&options)
                .await
                .map_err(anyhow::Error::from)
        } else {
            Config::infer().await.map_err(anyhow::Error::from)
        };
        let mut config = config.map_err(|error| {
            UsageError(format!(
                "cannot find a cluster: {error}; set KUBECONFIG, or use --url"
            ))
        })?;
        // Otherwise 503 is retried for longer than anybody waits, and its reason is not shown.
        config.default_retry = false;
        let client =
            kube::Client::try_from(config).context("cannot create a client for the API server")?;
        let service = match &args.service {
            Some(service) => service.clone(),
            None => find_service(&client, &args.namespace).await?,
        };
        Ok(Self::Proxy {
            client,
            namespace: args.namespace.clone(),
            service,
        })
    }

    pub(super) async fn overview(&self) -> anyhow::Result<Overview> {
        let overview = self.get("/api/v1/status").await?;
        overview
            .ok_or_else(|| anyhow!("mirror-sidecar has no status API; update it to this version"))
    }

    /// Returns all images that pass the filters of `query`, at most `most`.
    pub(super) async fn images(
        &self,
        mut query: ImageQuery,
        most: usize,
    ) -> anyhow::Result<Vec<ImageStatus>> {
        let mut items = Vec::new();
        loop {
            let path = format!("/api/v1/images?{}", query.to_query_string());
            let list: Option<ImageList> = self.get(&path).await?;
            let list =
                list.ok_or_else(|| anyhow!("mirror-sidecar has no status API; update it"))?;
            items.extend(list.items);
            let next = list.next.as_deref().and_then(RowKey::parse);
            if next.is_none() || next <= query.after || items.len() >= most {
                items.truncate(most);
                return Ok(items);
            }
            query.after = next;
        }
    }

    /// Returns everything about an image; `None` if it is not in use.
    pub(super) async fn image(&self, image: &ImageRef<'_>) -> anyhow::Result<Option<ImageList>> {
        self.get(&format!("/api/v1/images/{image}")).await
    }

    /// Returns `None` for a response 404 of mirror-sidecar.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Option<T>> {
        let response = timeout(WITHIN, self.request(path)).await;
        let (status, body) = response.map_err(|_| {
            anyhow!(
                "no response within {} s; {}",
                WITHIN.as_secs(),
                self.advice()
            )
        })??;
        if status == StatusCode::OK {
            let parsed = serde_json::from_slice(&body);
            return Ok(Some(parsed.context(
                "cannot read the status: the response is not that of mirror-sidecar, or of another version",
            )?));
        }
        if let Ok(ErrorBody { error, .. }) = serde_json::from_slice(&body) {
            if status == StatusCode::NOT_FOUND {
                return Ok(None);
            }
            bail!("cannot read the status: {error}");
        }
        // The API server responds, or something else.
        let of_server = serde_json::from_slice::<Status>(&body).ok();
        let message = of_server.and_then(|status| status.message);
        match (status, message) {
            (StatusCode::NOT_FOUND, None) => Ok(None),
            (StatusCode::FORBIDDEN, Some(message)) => bail!(
                "cannot read the status: {message}; you need the permission `get` for `services/proxy`"
            ),
            (StatusCode::NOT_FOUND, Some(message)) => {
                bail!("cannot read the status: {message}; set --namespace and --service")
            }
            (status, message) => {
                let reason = message.unwrap_or_else(|| status.to_string());
                bail!("cannot read the status: {reason}; {}", self.advice())
            }
        }
    }

    async fn request(&self, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        match self {
            Self::Url(url) => {
                let host = url.host().unwrap_or_default();
                let name = host.trim_start_matches('[').trim_end_matches(']');
                let port = url.port_u16().unwrap_or(80);
                let path = format!("{}{path}", url.path().trim_end_matches('/'));
                let authority = url.authority().map_or(host, |authority| authority.as_str());
                let response = http::get((name, port), authority, &path).await;
                response.map_err(|error| anyhow!("cannot reach {error}; {}", self.advice()))
            }
            Self::Proxy {
                client,
                namespace,
                service,
            } => {
                let path = format!(
                    "/api/v1/namespaces/{namespace}/services/http:{service}:{PORT}/proxy{path}"
                );
                let request = Request::get(path).body(kube::client::Body::empty())?;
                let response = client.send(request).await;
                let response = response
                    .context("cannot read the status; check the connection to the API server")?;
                let status = response.status();
                let body = to_bytes(Body::new(response.into_body()), MAX_RESPONSE).await;
                Ok((status, body.context("cannot read the status")?))
            }
        }
    }

    /// Returns what to do if nothing responds.
    fn advice(&self) -> String {
        match self {
            Self::Url(_) => "check the URL, and that mirror-sidecar runs".to_owned(),
            Self::Proxy { namespace, .. } => format!(
                "check that mirror-sidecar runs in the namespace {namespace}, and that its NetworkPolicy lets the API server in \
                 (networkPolicy.status in the values of the chart)"
            ),
        }
    }
}

async fn find_service(client: &kube::Client, namespace: &str) -> anyhow::Result<String> {
    let api = Api::<Service>::namespaced(client.clone(), namespace);
    let listed = timeout(
        WITHIN,
        api.list_metadata(&ListParams::default().labels(LABELS)),
    )
    .await;
    let listed = listed.map_err(|_| anyhow!("the API server does not respond"))?;
    let listed = listed.map_err(|error| {
        anyhow!("cannot find the Service of mirror-sidecar: {error}; set --namespace and --service")
    })?;
    let names: Vec<String> = listed
        .items
        .into_iter()
        .filter_map(|service| service.metadata.name)
        .collect();
    match names.as_slice() {
        [name] => Ok(name.clone()),
        [] => Err(UsageError(format!(
            "no Service of mirror-sidecar in the namespace {namespace}; set --namespace and --service"
        ))
        .into()),
        names => Err(UsageError(format!(
            "several Services of mirror-sidecar in the namespace {namespace}: {}; choose one with --service",
            names.join(", ")
        ))
        .into()),
    }
}
