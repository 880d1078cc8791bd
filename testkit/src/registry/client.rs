//! A plain registry client for tests: one request per step, nothing clever, every digest verified.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures_util::StreamExt as _;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Body, Certificate, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use super::Credential;
use crate::tls::install_crypto_provider;
use crate::{blocking, digest};

/// Every kind of manifest that the tests make.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// A manifest as a registry serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The `Content-Type`.
    pub media_type: String,
    /// The bytes, verbatim.
    pub bytes: Bytes,
}

impl Document {
    /// The digest of the bytes.
    #[must_use]
    pub fn digest(&self) -> String {
        digest::of(&self.bytes)
    }
}

/// Talks to one registry. Blocking methods may be called from anywhere.
pub struct RegistryClient {
    base: String,
    http: reqwest::Client,
    credential: Option<Credential>,
}

impl RegistryClient {
    /// A client for `host:port`: HTTPS when a CA (PEM) is given, else plain HTTP.
    ///
    /// # Panics
    /// When the CA is not PEM.
    #[must_use]
    pub fn new(address: &str, credential: Option<Credential>, ca_pem: Option<&str>) -> Self {
        install_crypto_provider();
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            // A kept connection of a registry that was stopped would only confuse.
            .pool_max_idle_per_host(0);
        let mut scheme = "http";
        if let Some(pem) = ca_pem {
            let ca = Certificate::from_pem(pem.as_bytes()).expect("the CA is PEM");
            builder = builder.tls_certs_only([ca]);
            scheme = "https";
        }
        Self {
            base: format!("{scheme}://{address}"),
            http: builder.build().expect("an HTTP client can be built"),
            credential,
        }
    }

    /// The manifest behind a tag or digest, verified if it is a digest; `None` when there is none.
    pub fn manifest(&self, repository: &str, reference: &str) -> anyhow::Result<Option<Document>> {
        blocking::run(self.get_manifest(repository, reference))
    }

    /// The tags of a repository, sorted; empty when the repository is unknown.
    pub fn tags(&self, repository: &str) -> anyhow::Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Tags {
            tags: Option<Vec<String>>,
        }
        blocking::run(async {
            let path = format!("/v2/{repository}/tags/list");
            let response = self.request(Method::GET, &path).send().await?;
            if response.status() == StatusCode::NOT_FOUND {
                return Ok(Vec::new());
            }
            let body = expect(response, StatusCode::OK, &path)
                .await?
                .bytes()
                .await?;
            let tags: Tags = serde_json::from_slice(&body)?;
            let mut tags = tags.tags.unwrap_or_default();
            // Not every registry keeps to the lexical order that the specification asks for.
            tags.sort();
            Ok(tags)
        })
    }

    /// Whether a blob is in a repository.
    pub fn has_blob(&self, repository: &str, digest: &str) -> anyhow::Result<bool> {
        blocking::run(self.head_blob(repository, digest))
    }

    /// Removes a manifest by its digest. The registry may keep the blobs.
    pub fn delete_manifest(&self, repository: &str, digest: &str) -> anyhow::Result<()> {
        blocking::run(async {
            let path = format!("/v2/{repository}/manifests/{digest}");
            let response = self.request(Method::DELETE, &path).send().await?;
            expect(response, StatusCode::ACCEPTED, &path).await?;
            Ok(())
        })
    }

    /// Stores a manifest under a tag or its digest.
    pub fn push_manifest(
        &self,
        repository: &str,
        reference: &str,
        document: &Document,
    ) -> anyhow::Result<()> {
        blocking::run(self.put_manifest(repository, reference, document))
    }

    pub(crate) async fn get_manifest(
        &self,
        repository: &str,
        reference: &str,
    ) -> anyhow::Result<Option<Document>> {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let request = self.request(Method::GET, &path);
        let response = request.header(ACCEPT, MANIFEST_TYPES).send().await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = expect(response, StatusCode::OK, &path).await?;
        let media_type = response
            .headers()
            .get(CONTENT_TYPE)
            .context("a manifest without Content-Type")?
            .to_str()?
            .to_owned();
        let document = Document {
            media_type,
            bytes: response.bytes().await?,
        };
        let digest = document.digest();
        ensure!(
            !reference.contains(':') || digest == reference,
            "{path} has the digest {digest}"
        );
        Ok(Some(document))
    }

    pub(crate) async fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        document: &Document,
    ) -> anyhow::Result<()> {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let response = self
            .request(Method::PUT, &path)
            .header(CONTENT_TYPE, &document.media_type)
            .body(document.bytes.clone())
            .send()
            .await?;
        expect(response, StatusCode::CREATED, &path).await?;
        Ok(())
    }

    pub(crate) async fn head_blob(&self, repository: &str, digest: &str) -> anyhow::Result<bool> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        let response = self.request(Method::HEAD, &path).send().await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            status => anyhow::bail!("HEAD {path} answered {status}"),
        }
    }

    /// Streams a blob and checks its digest; gives its length.
    pub(crate) async fn read_blob(&self, repository: &str, digest: &str) -> anyhow::Result<u64> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        let response = self.request(Method::GET, &path).send().await?;
        let mut body = expect(response, StatusCode::OK, &path)
            .await?
            .bytes_stream();
        let mut hasher = digest::Hasher::default();
        while let Some(chunk) = body.next().await {
            hasher.update(&chunk?);
        }
        let length = hasher.length();
        let found = hasher.finish();
        ensure!(found == digest, "{path} has the digest {found}");
        Ok(length)
    }

    /// POST, then one PUT with the whole body (distribution specification, "POST then PUT").
    pub(crate) async fn put_blob(
        &self,
        repository: &str,
        digest: &str,
        size: u64,
        body: Body,
    ) -> anyhow::Result<()> {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let response = self.request(Method::POST, &path).send().await?;
        let response = expect(response, StatusCode::ACCEPTED, &path).await?;
        let location = response
            .headers()
            .get(LOCATION)
            .context("an upload without Location")?
            .to_str()?;
        let mut location = Url::parse(&self.base)?.join(location)?;
        location.query_pairs_mut().append_pair("digest", digest);
        let response = self
            .authorise(self.http.put(location))
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, size)
            .body(body)
            .send()
            .await?;
        expect(response, StatusCode::CREATED, &path).await?;
        Ok(())
    }

    /// Starts any other request to this registry; `path` begins with `/v2/`.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.authorise(self.http.request(method, format!("{}{path}", self.base)))
    }

    fn authorise(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.credential {
            Some(Credential { user, password }) => request.basic_auth(user, Some(password)),
            None => request,
        }
    }
}

async fn expect(response: Response, status: StatusCode, path: &str) -> anyhow::Result<Response> {
    let found = response.status();
    if found == status {
        return Ok(response);
    }
    let body = response.text().await.unwrap_or_default();
    anyhow::bail!("{path} answered {found} instead of {status}: {body}")
}
