//! The drill: a registry is gone, and what uses it is deleted and created again.

use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;

use super::estate::{Estate, Options, Replica};
use super::owned;
use super::plan::{Plan, Scale};
use super::report::Report;
use crate::manifests::Kind;
use testkit::sidecar::Sidecar;

/// The registry that stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Stopped {
    /// For good.
    #[default]
    Upstream,
    /// Until its Pods use the originals.
    Backup,
}

/// How long the sidecar may take to notice that the backup is gone or back.
const NOTICED_WITHIN: Duration = Duration::from_mins(1);

/// How long all copies and all re-admissions may take on a busy machine.
const QUIET_WITHIN: Duration = Duration::from_mins(5);

/// Runs the drill; `say` is told what begins. `None` means that there is no API server to be had, which was said.
///
/// # Errors
/// When something does not start, or the cluster does not come to rest. What cannot be pulled is in the report.
pub fn run(
    scale: Scale,
    seed: u64,
    stopped: Stopped,
    say: &dyn Fn(&str),
) -> anyhow::Result<Option<Report>> {
    let options = Options {
        replicas: 1,
        // One at a time is the default's caution with rollouts, which nobody waits for here.
        arguments: vec!["--readmit-per-minute=6000".into()],
    };
    say("starting the API server and the registries");
    let Some(mut estate) = Estate::prepare(Plan::new(scale, seed), options)? else {
        return Ok(None);
    };
    let mut report = Report::new(stopped);
    let (early, late) = estate.halves();
    say("creating the first half of the workloads, before anybody watches");
    for number in early {
        estate.create(number)?;
    }
    say("starting the sidecar and the policy, then creating the other half");
    let start = Timestamp::now();
    estate.start()?;
    for number in late {
        estate.create(number)?;
    }
    say("waiting until everything is copied and rewritten");
    wait_until_quiet(&mut estate, start, &mut report)?;

    match stopped {
        Stopped::Upstream => lose_upstream(&mut estate, &mut report, say)?,
        Stopped::Backup => lose_backup(&mut estate, &mut report, say)?,
    }
    if !report.is_good() {
        say(&estate.logs());
    }
    Ok(Some(report))
}

fn lose_upstream(
    estate: &mut Estate,
    report: &mut Report,
    say: &dyn Fn(&str),
) -> anyhow::Result<()> {
    say("stopping the upstream registry for good; deleting everything and creating it again");
    estate.upstream.stop();
    let start = Instant::now();
    create_again(estate)?;
    report
        .times
        .push(("all deleted and created again", start.elapsed()));
    say("pulling everything that is stored now");
    let start = Instant::now();
    estate.pull_everything(report)?;
    report.times.push(("all pulled", start.elapsed()));
    Ok(())
}

fn lose_backup(estate: &mut Estate, report: &mut Report, say: &dyn Fn(&str)) -> anyhow::Result<()> {
    say("stopping the backup registry; deleting all Pods and creating them again");
    estate.backup.stop();
    wait_for_message(estate, "the backup registry cannot be reached or used")?;
    let start = Instant::now();
    create_pods_again(estate)?;
    report
        .times
        .push(("all Pods created with originals", start.elapsed()));
    say("pulling all originals of Pods");
    estate.pull_originals_of_pods(report)?;
    say("starting the backup registry again; deleting all Pods and creating them again");
    estate.backup.restart()?;
    wait_for_message(estate, "the backup registry can be used again")?;
    create_pods_again(estate)?;
    say("pulling all copies that are stored now");
    estate.pull_copies(report)
}

/// Waits until a sidecar has logged this, and lets the policy server forget earlier responses.
fn wait_for_message(estate: &Estate, message: &str) -> anyhow::Result<()> {
    for sidecar in estate.replicas.iter().filter_map(Replica::sidecar) {
        sidecar.wait_for(NOTICED_WITHIN, |event| {
            let text = event["message"].as_str();
            text.is_some_and(|text| text.starts_with(message))
        })?;
    }
    estate.clear_cache();
    Ok(())
}

/// Deletes all Pods, and creates those of controllers again.
fn create_pods_again(estate: &Estate) -> anyhow::Result<()> {
    let stored = estate.stored()?;
    let (pods, workloads): (Vec<_>, Vec<_>) =
        stored.iter().partition(|stored| stored.kind == Kind::Pod);
    let namespace_of = |name: &str| {
        let mut namespaces = estate.namespaces.iter();
        namespaces.find(|namespace| namespace.name() == name)
    };
    for pod in pods.into_iter().filter(|pod| pod.is_owned) {
        if let Some(namespace) = namespace_of(&pod.namespace) {
            namespace.delete(&pod.object)?;
        }
    }
    for workload in workloads {
        if let Some(namespace) = namespace_of(&workload.namespace) {
            owned::make_pod(namespace, &workload.object)?;
        }
    }
    Ok(())
}

/// Waits until nothing is missing; when the copies were made is told by the sidecar's log.
fn wait_until_quiet(
    estate: &mut Estate,
    start: Timestamp,
    report: &mut Report,
) -> anyhow::Result<()> {
    estate.settle(QUIET_WITHIN)?;
    let quiet = since(start);
    let sidecars = estate
        .replicas
        .iter()
        .filter_map(|replica| replica.sidecar());
    let copies: Vec<Duration> = sidecars
        .flat_map(Sidecar::events)
        .filter(|event| event["message"] == "copied image")
        .filter_map(|event| event["timestamp"].as_str()?.parse::<Timestamp>().ok())
        .filter_map(|time| time.duration_since(start).try_into().ok())
        .collect();
    let milestones = [
        ("first copy, after the sidecar's start", copies.iter().min()),
        ("last copy", copies.iter().max()),
        ("all rewritten, all Secrets there", Some(&quiet)),
    ];
    for (name, time) in milestones {
        report.times.extend(time.map(|time| (name, *time)));
    }
    Ok(())
}

fn since(start: Timestamp) -> Duration {
    let time = Timestamp::now().duration_since(start);
    // The clock may have been set back.
    time.try_into().unwrap_or_default()
}

fn create_again(estate: &Estate) -> anyhow::Result<()> {
    estate.delete_everything()?;
    for number in 0..estate.plan.workloads.len() {
        estate.create(number)?;
    }
    Ok(())
}

impl Estate {
    /// Deletes all objects with images, those of controllers too.
    ///
    /// # Errors
    /// What the API server answers.
    pub fn delete_everything(&self) -> anyhow::Result<()> {
        for stored in self.stored()? {
            let mut namespaces = self.namespaces.iter();
            let namespace = namespaces.find(|namespace| namespace.name() == stored.namespace);
            let Some(namespace) = namespace else {
                continue;
            };
            match namespace.delete(&stored.object) {
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                result => result?,
            }
        }
        Ok(())
    }
}
