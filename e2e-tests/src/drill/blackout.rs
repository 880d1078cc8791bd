//! The drill: the upstream registry is gone for good, and everything is deleted and created again.

use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;

use super::estate::{Estate, Options};
use super::plan::{Plan, Scale};
use super::report::Report;
use testkit::sidecar::Sidecar;

/// How long all copies and all re-admissions may take on a busy machine.
const QUIET_WITHIN: Duration = Duration::from_mins(5);

/// Runs the drill; `say` is told what begins. `None` means that there is no API server to be had, which was said.
///
/// # Errors
/// When something does not start, or the cluster does not come to rest. What cannot be pulled is in the report.
pub fn run(scale: Scale, seed: u64, say: &dyn Fn(&str)) -> anyhow::Result<Option<Report>> {
    let options = Options {
        replicas: 1,
        // One at a time is the default's caution with rollouts, which nobody waits for here.
        arguments: vec!["--readmit-per-minute=6000".into()],
    };
    say("starting the API server and the registries");
    let Some(mut estate) = Estate::prepare(Plan::new(scale, seed), options)? else {
        return Ok(None);
    };
    let mut report = Report::default();
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

    say("stopping the upstream registry for good; deleting everything and creating it again");
    estate.upstream.stop();
    let start = Instant::now();
    create_again(&estate)?;
    report
        .times
        .push(("all deleted and created again", start.elapsed()));
    say("pulling everything that is stored now");
    let start = Instant::now();
    estate.pull_everything(&mut report)?;
    report.times.push(("all pulled", start.elapsed()));
    if !report.is_good() {
        say(&estate.logs());
    }
    Ok(Some(report))
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
