//! One request: it waits for pauses, gets credentials, follows redirects without them, checks the status, and is retried.

use super::auth_schemes::Proof;
use super::rate_limit::RateLimit;
use super::response::{error_text, retry_after};
use super::token::Scopes;
use super::{Registry, challenge};
use crate::address_policy::Allowance;
use crate::error::advice::needs_client_certificate;
use crate::error::{Operation, RegistryError, Remedy, Retry, Subject};
use crate::registries::RetryPolicy;
use crate::registries::clients::Pool;
use crate::text::public_url;
use backon::Retryable as _;
use bytes::Bytes;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, LOCATION,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Maximum number of redirects of one request.
const MAX_REDIRECTS: usize = 5;

/// Pause of a host that responds 429 without `Retry-After`.
const DEFAULT_PAUSE: Duration = Duration::from_secs(1);

/// A request that can be repeated: its body, if any, is small and in memory.
pub(super) struct RegistryRequest<'a> {
    pub(super) subject: &'a Subject,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) scopes: &'a Scopes,
    pub(super) pool: Pool,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Statuses besides 2xx that are no errors.
    pub(super) accepted: &'static [u16],
    /// Follow redirects; otherwise they are handled like any status.
    pub(super) follow: bool,
}

impl<'a> RegistryRequest<'a> {
    pub(super) fn new(
        subject: &'a Subject,
        method: Method,
        url: Url,
        scopes: &'a Scopes,
        pool: Pool,
    ) -> Self {
        let follow = method == Method::GET || method == Method::HEAD;
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        Self {
            subject,
            method,
            url,
            scopes,
            pool,
            headers,
            body,
            accepted: &[],
            follow,
        }
    }

    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    pub(super) fn accept(mut self, statuses: &'static [u16]) -> Self {
        self.accepted = statuses;
        self
    }
}

/// A response, and whether it is from the registry itself: not from the target of a redirect, the address of a foreign
/// layer, or another host that accepts its uploads.
pub(super) struct RegistryResponse {
    pub(super) response: Response,
    pub(super) own: bool,
}

/// Runs `attempt` until it succeeds, fails permanently, or the attempts or the total time of the policy are used up. The
/// wait for a used-up rate limit is at most that between any two attempts; the caller plans waits of hours.
pub(crate) async fn retrying<T, F>(
    policy: &RetryPolicy,
    attempt: impl FnMut() -> F,
) -> Result<T, RegistryError>
where
    F: Future<Output = Result<T, RegistryError>>,
{
    let started = Instant::now();
    attempt
        .retry(policy.backoff())
        .when(|error: &RegistryError| match (error, error.retry()) {
            (RegistryError::Quota { after, .. }, _) => *after <= policy.max_delay,
            (_, retry) => retry.is_transient(),
        })
        .adjust(|error, wait| {
            let wait = match error.retry() {
                Retry::Transient { after: Some(after) } => wait?.max(after),
                _ => wait?,
            };
            (started.elapsed() + wait < policy.total).then_some(wait)
        })
        .notify(|error, wait| tracing::debug!(%error, ?wait, "retrying the request"))
        .await
}

impl Registry {
    /// Returns whether this host limits how many manifests are read, so that `HEAD` is preferred.
    pub(crate) fn counts_reads(&self) -> bool {
        self.shared.endpoint.is_docker_hub() || self.shared.quota.state().seen
    }

    /// Returns the rate limit for reading manifests that this host reported within the last 15 minutes; `None` if it did
    /// not. Callers that can wait leave the rest to those that cannot.
    #[must_use]
    pub fn rate_limit(&self) -> Option<RateLimit> {
        let (reported, until) = self.shared.quota.state().last?;
        (Instant::now() < until).then_some(reported)
    }

    /// Fails if the registry is known to refuse reading a manifest now.
    pub(super) fn check_quota(&self, subject: &Subject) -> Result<(), RegistryError> {
        let Err((reading, after)) = self.shared.quota.take() else {
            return Ok(());
        };
        Err(RegistryError::Quota {
            host: self.host().to_owned(),
            subject: subject.clone(),
            limit: reading.limit,
            window: reading.window,
            after,
        })
    }

    /// Sends a request with retries. Returns a response with 2xx or one of the accepted statuses.
    pub(super) async fn send(
        &self,
        request: &RegistryRequest<'_>,
    ) -> Result<Response, RegistryError> {
        retrying(self.retry_policy(), || async {
            let attempt = self.attempt(request).await;
            let operation = request.subject.operation;
            self.shared.last_failures.record(operation, &attempt);
            attempt
        })
        .await
    }

    pub(super) async fn attempt(
        &self,
        request: &RegistryRequest<'_>,
    ) -> Result<Response, RegistryError> {
        self.shared
            .limits
            .pauses
            .wait(request.subject.operation)
            .await;
        let reads_manifest = request.subject.operation == Operation::ReadManifest;
        if reads_manifest && request.method == Method::GET {
            self.check_quota(request.subject)?;
        }
        let mut proof = self.proof(request.subject, request.scopes).await?;
        let mut received = self.exchange(request, proof.as_ref()).await?;
        if received.own
            && received.response.status() == StatusCode::UNAUTHORIZED
            && let Some(challenge) = challenge::choose(received.response.headers())
        {
            let new = self
                .renewed(request.subject, request.scopes, challenge, proof.as_ref())
                .await?;
            received = self.exchange(request, Some(&new)).await?;
            if received.own && matches!(received.response.status().as_u16(), 200..=399 | 404) {
                self.accepted(request.scopes, &new);
            }
            proof = Some(new);
        } else if received.own
            && received.response.status() == StatusCode::FORBIDDEN
            && let Some(old) = &proof
        {
            let (subject, scopes) = (request.subject, request.scopes);
            let error = self.failure(subject, received, Some(old)).await;
            let new = self.replaced(subject, scopes, &error, old).await?;
            let Some(new) = new else { return Err(error) };
            received = self.exchange(request, Some(&new)).await?;
            proof = Some(new);
        }
        let is_accepted =
            |status: StatusCode| status.is_success() || request.accepted.contains(&status.as_u16());
        if is_accepted(received.response.status()) {
            return Ok(received.response);
        }
        Err(self
            .failure(request.subject, received, proof.as_ref())
            .await)
    }

    /// Returns the error for a response. Pauses the host if the registry itself requests it: other hosts must not be able to
    /// delay requests to the registry.
    pub(super) async fn failure(
        &self,
        subject: &Subject,
        RegistryResponse { response, own }: RegistryResponse,
        proof: Option<&Proof>,
    ) -> RegistryError {
        let proof = proof.filter(|_| own);
        let status = response.status();
        let after = retry_after(response.headers(), self.retry_policy().max_retry_after);
        match (status, after) {
            (StatusCode::TOO_MANY_REQUESTS, after) if own => {
                self.shared.limits.transfers.too_many(subject.operation);
                self.pause(subject.operation, after.unwrap_or(DEFAULT_PAUSE));
            }
            (StatusCode::SERVICE_UNAVAILABLE, Some(after)) if own => {
                self.pause(subject.operation, after);
            }
            _ => {}
        }
        if status == StatusCode::UNAUTHORIZED
            && let Some(error) = proof.and_then(|proof| self.not_enough(subject, proof))
        {
            return error;
        }
        let (code, message) = error_text(response).await;
        tracing::debug!(%subject, %status, code, "registry error");
        self.status_error(subject.clone(), status, code, message, after)
    }

    pub(super) fn status_error(
        &self,
        subject: Subject,
        status: StatusCode,
        code: String,
        message: String,
        retry_after: Option<Duration>,
    ) -> RegistryError {
        if needs_client_certificate(status, &code, &message) {
            return RegistryError::ClientCertificate {
                subject,
                status,
                message,
                advice: self.advice(&Remedy::ClientCertificate),
            };
        }
        RegistryError::of_response(subject, status, code, message, retry_after)
    }

    /// Returns the error for a response of the registry itself with an accepted status.
    pub(super) async fn refusal(&self, subject: &Subject, response: Response) -> RegistryError {
        let own = true;
        self.failure(subject, RegistryResponse { response, own }, None)
            .await
    }

    /// Sends a request and follows redirects. The proof is sent to the registry itself only.
    async fn exchange(
        &self,
        request: &RegistryRequest<'_>,
        proof: Option<&Proof>,
    ) -> Result<RegistryResponse, RegistryError> {
        let mut url = request.url.clone();
        let mut beyond = self.beyond();
        for _ in 0..=MAX_REDIRECTS {
            let own = self.shared.endpoint.owns(&url);
            let proof = proof.filter(|_| own);
            let allowance = self.allowance_at(&url, beyond);
            let response = self
                .transmit(request, url.clone(), allowance, proof)
                .await?;
            if own && request.subject.operation == Operation::ReadManifest {
                self.shared.quota.record(response.headers());
            }
            let next = Some(&response)
                .filter(|_| request.follow)
                .and_then(redirect_target);
            match next {
                None => return Ok(RegistryResponse { response, own }),
                Some(next) => {
                    beyond = self.beyond_after(beyond, &url, &response);
                    url = checked_hop(request.subject, &url, next)?;
                    self.check_redirect(request.subject, &url, beyond)?;
                }
            }
        }
        let reason = format!("it was redirected more than {MAX_REDIRECTS} times");
        Err(RegistryError::Redirect {
            subject: request.subject.clone(),
            reason,
        })
    }

    async fn transmit(
        &self,
        request: &RegistryRequest<'_>,
        url: Url,
        allowance: Allowance,
        proof: Option<&Proof>,
    ) -> Result<Response, RegistryError> {
        let length = request.body.len();
        let wants_length = request.method != Method::GET && request.method != Method::HEAD;
        let mut builder = self
            .client_for(request.subject, &url, request.pool, allowance)?
            .request(request.method.clone(), url.clone())
            .headers(request.headers.clone())
            // Content is copied as it is; a compressed response would not match its digest.
            .header(ACCEPT_ENCODING, "identity");
        if let Some(proof) = proof {
            builder = builder.header(AUTHORIZATION, proof.header.clone());
        }
        if wants_length {
            // Some registries respond 411 to a POST without a length.
            builder = builder
                .header(CONTENT_LENGTH, length)
                .body(request.body.clone());
        }
        let limit = match request.subject.operation {
            Operation::WriteManifest | Operation::WriteBlob => self.timeouts().commit,
            Operation::ReadBlob => self.timeouts().first_byte,
            _ => self.timeouts().idle,
        };
        // The whole body is in memory, so the request can be repeated.
        let spare = builder.try_clone();
        let response = self.send_once(request.subject, &url, limit, builder).await;
        if let Ok(response) = &response {
            self.learn_version(request.pool, response);
        }
        match (response, spare) {
            // The peer may close an idle connection in the moment when it is used again: that is no failure.
            (Err(RegistryError::Transport { source, .. }), Some(spare)) if !source.is_connect() => {
                tracing::trace!(%source, "the connection broke before the response; sending the request again");
                self.send_once(request.subject, &url, limit, spare).await
            }
            (response, _) => response,
        }
    }

    async fn send_once(
        &self,
        subject: &Subject,
        url: &Url,
        limit: Duration,
        request: RequestBuilder,
    ) -> Result<Response, RegistryError> {
        self.count_request();
        tracing::trace!(url = %public_url(url), "request");
        match timeout(limit, request.send()).await {
            Ok(Ok(response)) => {
                self.record_peer(url, &response);
                Ok(response)
            }
            Ok(Err(error)) => Err(self.transport_error(subject, url, error)),
            Err(_) => Err(RegistryError::Timeout {
                subject: subject.clone(),
                after: limit,
            }),
        }
    }
}

/// Returns the target of a redirect; `None` if this is no redirect.
fn redirect_target(response: &Response) -> Option<Url> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    target(response.url(), response.headers())
}

/// Returns the target of `Location` in a response from this URL; it may be relative.
pub(super) fn target(from: &Url, headers: &HeaderMap) -> Option<Url> {
    let location = headers.get(LOCATION)?.to_str().ok()?;
    from.join(location).ok()
}

/// Refuses a redirect from HTTPS to HTTP. The addresses are checked by the address policy.
pub(super) fn checked_hop(subject: &Subject, from: &Url, to: Url) -> Result<Url, RegistryError> {
    let refused = |reason: &str| {
        let reason = format!("its redirect to {} {reason}", public_url(&to));
        Err(RegistryError::Redirect {
            subject: subject.clone(),
            reason,
        })
    };
    match (from.scheme(), to.scheme()) {
        ("https" | "http", "https") | ("http", "http") => Ok(to),
        ("https", "http") => refused("would leave HTTPS"),
        _ => refused("is neither HTTPS nor HTTP"),
    }
}

#[cfg(test)]
mod tests;
