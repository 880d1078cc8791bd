//! One request: the gate, the proof, redirects without credentials, the status, and trying again.

use super::Registry;
use super::challenge;
use super::pool::Pool;
use super::proof::Proof;
use super::rate_limit::RateLimit;
use super::redirect::{checked_hop, redirect_target};
use super::response::{error_text, retry_after};
use super::token::Scopes;
use crate::address_policy::Allowance;
use crate::error::{Operation, RegistryError, Retry, Subject};
use crate::registries::RetryPolicy;
use crate::text::public_url;
use backon::Retryable as _;
use bytes::Bytes;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Most redirects followed for one request.
const MAX_REDIRECTS: usize = 5;

/// Pause of a host that answered 429 and named no time.
const DEFAULT_PAUSE: Duration = Duration::from_secs(1);

/// A request that can be sent again: its body, if any, is small and in memory.
pub(super) struct RegistryRequest<'a> {
    pub(super) subject: &'a Subject,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) scopes: &'a Scopes,
    pub(super) pool: Pool,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Statuses that are answers, not errors, besides 2xx.
    pub(super) answers: &'static [u16],
    /// Whether redirects are followed; otherwise they are handled like any status.
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
            answers: &[],
            follow,
        }
    }

    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    pub(super) fn answers(mut self, statuses: &'static [u16]) -> Self {
        self.answers = statuses;
        self
    }
}

/// An answer, and whether the registry itself gave it: not a redirect's target, not a foreign layer's address
/// and not another host that takes its uploads.
pub(super) struct RegistryResponse {
    pub(super) response: Response,
    pub(super) own: bool,
}

/// Runs `attempt` until it succeeds, fails for good, or the policy's attempts or its time are used up, of which
/// the attempts themselves take their part. A used-up quota is waited for only as long as between any two
/// attempts; what takes hours is the caller's to plan.
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
        .notify(|error, wait| tracing::debug!(%error, ?wait, "trying again"))
        .await
}

impl Registry {
    /// Whether reading a manifest is counted against a quota here, so that `HEAD` is the better question.
    pub(crate) fn counts_reads(&self) -> bool {
        self.shared.endpoint.is_docker_hub() || self.shared.quota.state().seen
    }

    /// How many manifests this host still lets us read, as it said within the last quarter of an hour; `None` if it
    /// did not. Those who need not read now can leave the rest to those who must.
    #[must_use]
    pub fn rate_limit(&self) -> Option<RateLimit> {
        let (said, until) = self.shared.quota.state().last?;
        (Instant::now() < until).then_some(said)
    }

    /// Refuses to read a manifest where the registry is known to refuse it.
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

    /// Sends a request, again if need be, and answers with a 2xx or one of the call's `answers`.
    pub(super) async fn send(&self, call: &RegistryRequest<'_>) -> Result<Response, RegistryError> {
        retrying(self.retry_policy(), || async {
            let attempt = self.attempt(call).await;
            let operation = call.subject.operation;
            self.shared.last_failures.record(operation, &attempt);
            attempt
        })
        .await
    }

    pub(super) async fn attempt(
        &self,
        call: &RegistryRequest<'_>,
    ) -> Result<Response, RegistryError> {
        self.shared.gates.pass(call.subject.operation).await;
        let reads_manifest = call.subject.operation == Operation::ReadManifest;
        if reads_manifest && call.method == Method::GET {
            self.check_quota(call.subject)?;
        }
        let mut proof = self.proof(call.subject, call.scopes).await?;
        let mut answer = self.exchange(call, proof.as_ref()).await?;
        if answer.own
            && answer.response.status() == StatusCode::UNAUTHORIZED
            && let Some(challenge) = challenge::choose(answer.response.headers())
        {
            let new = self
                .renewed(call.subject, call.scopes, challenge, proof.as_ref())
                .await?;
            answer = self.exchange(call, Some(&new)).await?;
            if answer.own && matches!(answer.response.status().as_u16(), 200..=399 | 404) {
                self.accepted(call.scopes, &new);
            }
            proof = Some(new);
        } else if answer.own
            && answer.response.status() == StatusCode::FORBIDDEN
            && let Some(old) = &proof
        {
            let (subject, scopes) = (call.subject, call.scopes);
            let error = self.failure(subject, answer, Some(old)).await;
            let new = self.replaced(subject, scopes, &error, old).await?;
            let Some(new) = new else { return Err(error) };
            answer = self.exchange(call, Some(&new)).await?;
            proof = Some(new);
        }
        let fine =
            |status: StatusCode| status.is_success() || call.answers.contains(&status.as_u16());
        if fine(answer.response.status()) {
            return Ok(answer.response);
        }
        Err(self.failure(call.subject, answer, proof.as_ref()).await)
    }

    /// The error that an answer stands for. Pauses the host if it asks for that itself: others must not be
    /// able to hold up what goes to the registry.
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
                self.shared.places.too_many(subject.operation);
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
        RegistryError::of_answer(subject.clone(), status, code, message, after)
    }

    /// The error that a response of the registry itself stands for, which the call expected as an answer.
    pub(super) async fn refusal(&self, subject: &Subject, response: Response) -> RegistryError {
        let own = true;
        self.failure(subject, RegistryResponse { response, own }, None)
            .await
    }

    /// Sends, and follows redirects. The proof goes to the registry itself only.
    async fn exchange(
        &self,
        call: &RegistryRequest<'_>,
        proof: Option<&Proof>,
    ) -> Result<RegistryResponse, RegistryError> {
        let mut url = call.url.clone();
        let mut beyond = self.beyond();
        for _ in 0..=MAX_REDIRECTS {
            let own = self.shared.endpoint.owns(&url);
            let proof = proof.filter(|_| own);
            let allowance = self.allowance_at(&url, beyond);
            let response = self.transmit(call, url.clone(), allowance, proof).await?;
            if own && call.subject.operation == Operation::ReadManifest {
                self.shared.quota.record(response.headers());
            }
            let next = Some(&response)
                .filter(|_| call.follow)
                .and_then(redirect_target);
            match next {
                None => return Ok(RegistryResponse { response, own }),
                Some(next) => {
                    beyond = self.beyond_after(beyond, &url, &response);
                    url = checked_hop(call.subject, &url, next)?;
                    self.check_redirect(call.subject, &url, beyond)?;
                }
            }
        }
        let reason = format!("it was redirected more than {MAX_REDIRECTS} times");
        Err(RegistryError::Redirect {
            subject: call.subject.clone(),
            reason,
        })
    }

    async fn transmit(
        &self,
        call: &RegistryRequest<'_>,
        url: Url,
        allowance: Allowance,
        proof: Option<&Proof>,
    ) -> Result<Response, RegistryError> {
        let length = call.body.len();
        let wants_length = call.method != Method::GET && call.method != Method::HEAD;
        let mut request = self
            .client_for(call.subject, &url, call.pool, allowance)?
            .request(call.method.clone(), url.clone())
            .headers(call.headers.clone())
            // Content is copied as it is; a transparently compressed answer would not verify.
            .header(ACCEPT_ENCODING, "identity");
        if let Some(proof) = proof {
            request = request.header(AUTHORIZATION, proof.header.clone());
        }
        if wants_length {
            // Some registries answer 411 to a POST that does not say that it is empty.
            request = request
                .header(CONTENT_LENGTH, length)
                .body(call.body.clone());
        }
        let patience = match call.subject.operation {
            Operation::WriteManifest | Operation::WriteBlob => self.timeouts().commit,
            Operation::ReadBlob => self.timeouts().first_byte,
            _ => self.timeouts().idle,
        };
        // What is sent again here has its whole body in memory.
        let spare = request.try_clone();
        let answer = self.once(call.subject, &url, patience, request).await;
        if let Ok(response) = &answer {
            self.learn_version(call.pool, response);
        }
        match (answer, spare) {
            // The peer may close an idle connection just when it is used again: that is no failure of its.
            (Err(RegistryError::Transport { source, .. }), Some(spare)) if !source.is_connect() => {
                tracing::trace!(%source, "the connection broke before the answer; once more");
                self.once(call.subject, &url, patience, spare).await
            }
            (answer, _) => answer,
        }
    }

    async fn once(
        &self,
        subject: &Subject,
        url: &Url,
        patience: Duration,
        request: RequestBuilder,
    ) -> Result<Response, RegistryError> {
        self.count_request();
        tracing::trace!(url = %public_url(url), "request");
        match timeout(patience, request.send()).await {
            Ok(Ok(response)) => {
                self.record_peer(url, &response);
                Ok(response)
            }
            Ok(Err(error)) => Err(self.unanswered(subject, url, error)),
            Err(_) => Err(RegistryError::Timeout {
                subject: subject.clone(),
                after: patience,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
