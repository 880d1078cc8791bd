//! Hostile connections to the facade and the admin port, as a row of the table.

use std::time::Duration;

use super::connections::{Addresses, Attack as Flood, Kind, Port, Service, run};
use super::site::Site;
use super::{Attack, Measured, Setup};
use testkit::blocking;

/// What the facade promises to authenticated requests.
const BOUND: Duration = Duration::from_millis(500);

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "2,000 hostile connections to the facade (idle, slow headers, half TLS, unauthenticated, never reading): an authenticated request and a probe",
        bound: "99th percentile 500 ms, no errors",
        is_short: false,
        run: facade,
    },
    Attack {
        name: "2,000 hostile connections to the admin port: an authenticated request and a probe",
        bound: "99th percentile 500 ms, no errors",
        is_short: false,
        run: admin,
    },
];

fn facade(setup: Setup) -> anyhow::Result<Measured> {
    flood(setup, Port::Facade)
}

fn admin(setup: Setup) -> anyhow::Result<Measured> {
    flood(setup, Port::Admin)
}

/// Measures each kind of connection by itself; the slowest counts.
fn flood(setup: Setup, port: Port) -> anyhow::Result<Measured> {
    let mut worst = (Duration::ZERO, Kind::Idle);
    let mut errors = 0;
    for kind in Kind::ALL {
        let site = Site::start(setup, &[])?;
        let service = Service::of(&site.sidecar)?;
        let attack = Flood {
            kind,
            port,
            addresses: Addresses::Many,
            clients: 2000,
            opened_per_second: 500,
            duration: Duration::from_secs(8),
        };
        let report = blocking::run(run(&service, attack))?;
        for latencies in [&report.facade, &report.probes] {
            if latencies.percentile(99) >= worst.0 {
                worst = (latencies.percentile(99), kind);
            }
            errors += latencies.errors;
        }
    }
    let (p99, kind) = worst;
    Ok(Measured {
        value: format!("{} ms ({kind:?}), {errors} errors", p99.as_millis()),
        is_within_bound: p99 <= BOUND && errors == 0,
    })
}
