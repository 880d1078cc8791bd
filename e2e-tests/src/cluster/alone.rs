//! API servers that one test has for itself, one test after the other.
//!
//! A sidecar that watches a cluster works on all namespaces of it. Beside others it would copy their images, rewrite their
//! workloads and make Secrets for them. A server of its own for each test takes four seconds to start, so those that a test
//! is done with are emptied and used again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::namespace::delete_everywhere;
use super::programs::Programs;
use super::{Cluster, external, programs, start_shared};

/// What tests and sidecars put into namespaces that a sidecar looks at. Secrets come last: workloads ask for them.
const CONTENTS: [(&str, &str); 8] = [
    ("apps/v1", "Deployment"),
    ("apps/v1", "DaemonSet"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "ReplicaSet"),
    ("v1", "ReplicationController"),
    ("batch/v1", "Job"),
    ("v1", "Pod"),
    ("v1", "Secret"),
];

/// Where `CronJob` may be served.
const BATCH: [&str; 2] = ["batch/v1", "batch/v1beta1"];

/// All of them. One that nobody else holds is free.
static SERVERS: Mutex<Vec<Arc<Cluster>>> = Mutex::new(Vec::new());

/// A server that no other test works with until this is dropped, so that it must be declared before all that uses it. On
/// a cluster of somebody else it is the shared one: nobody is alone there. `None` means that the test shall be skipped,
/// which was said.
///
/// # Panics
/// When it does not start, or when there is none although it is required.
#[must_use]
pub fn alone() -> Option<Arc<Cluster>> {
    if external::kubeconfig().is_some() {
        return start_shared().cloned();
    }
    let programs = programs::find_or_skip().unwrap_or_else(|error| panic!("{error:#}"))?;
    Some(take(programs).unwrap_or_else(|error| panic!("{error:#}")))
}

/// The same for a test that reads the audit log, or fails beside anything else. `None` means that the test shall be
/// skipped, which was said.
///
/// # Panics
/// When it does not start, or when there is none although it is required.
#[must_use]
pub fn alone_and_audited() -> Option<Arc<Cluster>> {
    if external::kubeconfig().is_some() {
        programs::skip("it reads the audit log, or must be alone with the API server");
        return None;
    }
    alone()
}

fn take(programs: Programs) -> anyhow::Result<Arc<Cluster>> {
    while let Some(cluster) = free() {
        // What cannot be emptied is not used again.
        if empty(&cluster).is_ok() {
            servers().push(Arc::clone(&cluster));
            return Ok(cluster);
        }
    }
    let cluster = Arc::new(Cluster::start(programs)?);
    servers().push(Arc::clone(&cluster));
    Ok(cluster)
}

/// Takes one out that nobody holds.
fn free() -> Option<Arc<Cluster>> {
    let mut servers = servers();
    let free = servers
        .iter()
        .position(|cluster| Arc::strong_count(cluster) == 1)?;
    Some(servers.swap_remove(free))
}

fn empty(cluster: &Cluster) -> anyhow::Result<()> {
    let admin = cluster.admin();
    for api_version in BATCH {
        if cluster.serves(api_version, "CronJob")? {
            delete_everywhere(&admin, api_version, "CronJob")?;
        }
    }
    for (api_version, kind) in CONTENTS {
        delete_everywhere(&admin, api_version, kind)?;
    }
    Ok(())
}

fn servers() -> MutexGuard<'static, Vec<Arc<Cluster>>> {
    SERVERS.lock().unwrap_or_else(PoisonError::into_inner)
}
