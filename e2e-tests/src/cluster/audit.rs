//! Who asked the API server for what, by its own audit log.

use std::collections::HashSet;

use serde_json::Value;

/// What the API server logs: the metadata of every request, no bodies.
///
/// A watch is logged when it starts; its end is the same request again.
pub(super) const POLICY: &str = r#"{
  "apiVersion": "audit.k8s.io/v1",
  "kind": "Policy",
  "omitStages": ["RequestReceived"],
  "rules": [
    { "level": "None", "userGroups": ["system:masters"], "users": ["system:apiserver"] },
    { "level": "Metadata" }
  ]
}"#;

/// A request that the API server answered, allowed or not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// Who asked, such as `system:serviceaccount:shop:sidecar`.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: String,
    /// API group; empty for the core group, and for what is no resource.
    pub group: String,
    /// Resource, in plural; empty for what is no resource, such as `/readyz`.
    pub resource: String,
    /// Subresource, such as `status`; mostly empty.
    pub subresource: String,
    /// Namespace; empty for cluster-wide requests.
    pub namespace: String,
    /// Name of the object; empty for lists, watches, and creations that the server names.
    pub name: String,
    /// Path with its query.
    pub uri: String,
    /// HTTP status of the answer.
    pub status: u16,
}

impl Request {
    /// Whether nothing was stored, as the asker wished.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        self.uri.contains("dryRun=All")
    }
}

/// Reads an audit log; each request once, in the order of the answers.
pub(super) fn parse(log: &str) -> Vec<Request> {
    let mut watches = HashSet::new();
    log.lines()
        // The last line may be half written; there is another look.
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|event| {
            let id = event["auditID"].as_str().unwrap_or_default();
            if event["stage"] == "ResponseStarted" {
                return watches.insert(id.to_owned());
            }
            !watches.contains(id)
        })
        .map(|event| request(&event))
        .collect()
}

fn request(event: &Value) -> Request {
    let text = |pointer: &str| {
        let value = event.pointer(pointer).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    let status = event.pointer("/responseStatus/code");
    Request {
        user: text("/user/username"),
        verb: text("/verb"),
        group: text("/objectRef/apiGroup"),
        resource: text("/objectRef/resource"),
        subresource: text("/objectRef/subresource"),
        namespace: text("/objectRef/namespace"),
        name: text("/objectRef/name"),
        uri: text("/requestURI"),
        status: status
            .and_then(Value::as_u64)
            .and_then(|code| u16::try_from(code).ok())
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_counts_once_and_half_a_line_not_at_all() {
        let line = |stage: &str| {
            format!(
                r#"{{"auditID":"1","stage":"{stage}","requestURI":"/api/v1/secrets?watch=true","verb":"watch","user":{{"username":"u"}},"objectRef":{{"resource":"secrets","apiVersion":"v1"}},"responseStatus":{{"code":200}}}}"#
            )
        };
        let log = format!(
            "{}\n{}\n{{\"auditID\":",
            line("ResponseStarted"),
            line("ResponseComplete")
        );
        let requests = parse(&log);
        assert_eq!(requests.len(), 1, "{requests:?}");
        assert_eq!(requests[0].user, "u");
        assert_eq!(requests[0].resource, "secrets");
        assert_eq!(requests[0].status, 200);
    }
}
