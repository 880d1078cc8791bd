//! The rows of the matrix: how a server fails.

use super::request::Request;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;
use testkit::scripted::Action;

/// How a server fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Refused,
    Reset,
    Timeout,
    Slow,
    Unauthorized,
    Forbidden,
    NotFound,
    TooMany,
    TooManyRetryAfter,
    ServerError,
    BadGateway,
    Unavailable,
    Truncated,
    Extra,
    WrongDigest,
    GarbageJson,
    DeepJson,
    RedirectLoop,
    RedirectPrivate,
    Tls,
    Dns,
}

/// How deep the deep JSON is: enough for a parser that recurses to end the process.
const DEPTH: usize = 100_000;

static DEEP: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{{\"schemaVersion\":{}1{}}}",
        "[".repeat(DEPTH),
        "]".repeat(DEPTH)
    )
});

/// An address that no registry may send us to.
pub const PRIVATE: &str = "http://169.254.169.254/latest/meta-data";

/// A name that no resolver knows (RFC 2606).
pub const UNKNOWN_HOST: &str = "http://registry.invalid/v2/app/";

/// A pause after each byte: the whole response takes longer than the idle timeout, and no single byte does.
pub const DRIP: Duration = Duration::from_millis(100);

const GARBAGE: &str = "{\"schemaVersion\":2,\"manifests\":[{]";

impl Fault {
    pub const ALL: [Self; 21] = [
        Self::Refused,
        Self::Reset,
        Self::Timeout,
        Self::Slow,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::TooMany,
        Self::TooManyRetryAfter,
        Self::ServerError,
        Self::BadGateway,
        Self::Unavailable,
        Self::Truncated,
        Self::Extra,
        Self::WrongDigest,
        Self::GarbageJson,
        Self::DeepJson,
        Self::RedirectLoop,
        Self::RedirectPrivate,
        Self::Tls,
        Self::Dns,
    ];

    /// The row's title.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "connection refused",
            Self::Reset => "connection reset",
            Self::Timeout => "no response",
            Self::Slow => "1 byte per second",
            Self::Unauthorized => "401",
            Self::Forbidden => "403",
            Self::NotFound => "404",
            Self::TooMany => "429",
            Self::TooManyRetryAfter => "429 with Retry-After",
            Self::ServerError => "500",
            Self::BadGateway => "502 with HTML",
            Self::Unavailable => "503",
            Self::Truncated => "truncated response",
            Self::Extra => "extra bytes",
            Self::WrongDigest => "wrong digest",
            Self::GarbageJson => "garbage JSON",
            Self::DeepJson => "deeply nested JSON",
            Self::RedirectLoop => "redirect loop",
            Self::RedirectPrivate => "redirect to a private address",
            Self::Tls => "TLS error",
            Self::Dns => "DNS failure",
        }
    }

    /// Whether the cell needs the short idle timeout; all others have a long one, so that a busy machine changes nothing.
    pub fn is_about_time(self) -> bool {
        matches!(self, Self::Timeout | Self::Slow)
    }

    /// What the scripted server does. `untrusted` is a TLS server whose certificate nobody trusts.
    pub fn action(
        self,
        request: Request,
        server: SocketAddr,
        untrusted: SocketAddr,
        lasts: bool,
    ) -> Action {
        let status = |status, body| Action::Status(status, Vec::new(), body);
        let redirect = |to: String| Action::Status(307, vec![("location", to)], "");
        match self {
            Self::Refused => Action::Leave((!lasts).then_some(Duration::from_millis(50))),
            Self::Reset => Action::Reset,
            Self::Timeout => Action::Hang,
            Self::Slow if request.has_body() => Action::Sip(1, DRIP),
            Self::Slow if request.is_of_kubernetes() => Action::Drip(20, DRIP),
            Self::Slow => Action::Drip(usize::MAX, DRIP),
            Self::Unauthorized => {
                let challenge = format!(r#"Bearer realm="http://{server}/token",service="fake""#);
                Action::Status(401, vec![("www-authenticate", challenge)], "{}")
            }
            Self::Forbidden => status(403, r#"{"errors":[{"code":"DENIED","message":"no"}]}"#),
            Self::NotFound => status(404, r#"{"errors":[{"code":"NOT_FOUND","message":"no"}]}"#),
            Self::TooMany => status(429, ""),
            Self::TooManyRetryAfter => Action::Status(429, vec![("retry-after", "1".into())], ""),
            Self::ServerError => status(500, ""),
            Self::BadGateway => status(502, "<html><h1>Bad Gateway</h1></html>"),
            Self::Unavailable => status(503, ""),
            Self::Truncated if request.response_has_body() => Action::Cut(7),
            Self::Truncated => Action::LoseAnswer,
            Self::Extra => Action::Resize(5),
            Self::WrongDigest if request.response_has_body() => Action::Corrupt,
            Self::WrongDigest => {
                let other = format!("sha256:{}", "0".repeat(64));
                Action::With("docker-content-digest", other)
            }
            Self::GarbageJson => status(200, GARBAGE),
            Self::DeepJson => status(200, DEEP.as_str()),
            Self::RedirectLoop => Action::Status(307, vec![("location", "?again".into())], ""),
            Self::RedirectPrivate if request == Request::UploadPost => {
                Action::With("location", PRIVATE.into())
            }
            Self::RedirectPrivate => redirect(PRIVATE.into()),
            Self::Tls => redirect(format!("https://{untrusted}/")),
            Self::Dns => redirect(UNKNOWN_HOST.into()),
        }
    }
}
