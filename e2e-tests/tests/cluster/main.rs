//! What a real API server stores when it asks the policy. Without a server these tests say that they are skipped.

mod admission;
mod backup_events;
mod chaos;
mod custom_kinds;
mod drill;
mod external;
mod failover;
mod former_secret;
mod injected;
mod installations;
mod jobs;
mod late_referrers;
mod losing_backup;
mod managed_secrets;
mod manifests;
mod moves;
mod originals_annotation;
mod plan;
mod policies;
mod pull_secrets;
mod readmission;
mod reconciler;
mod replicas;
mod rewrite_loops;
mod rewrites;
mod rights;
mod server;
mod several_backups;
mod stage;
mod status;
#[path = "../e2e/support.rs"]
#[allow(
    dead_code,
    reason = "some of it is for tests that call the policy themselves"
)]
mod support;
mod teams;
mod verify;
mod watching;
