//! Admission requests that cost the policy more than their size.

use std::sync::Arc;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{Attack, Measured, Setup};
use crate::fuel::{Case, Expected, Meter};
use testkit::{artifacts, fixtures};

/// Instructions may grow by this factor when the request is doubled.
const FACTOR: f64 = 2.2;
/// Bytes of linear memory per byte of the request.
const MEMORY: usize = 12;
/// The largest request here, in bytes.
const SIZE: usize = 711_000;

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "A Pod of 711 KB with thousands of containers and `imagePullSecrets`: instructions when it doubles",
        bound: "factor 2.2",
        is_short: true,
        run: doubling,
    },
    Attack {
        name: "A Pod with 50,000 variables: memory of the policy",
        bound: "12 times its size",
        is_short: true,
        run: variables,
    },
];

fn doubling(_: Setup) -> anyhow::Result<Measured> {
    let meter = meter()?;
    let spent = |size| -> anyhow::Result<u64> {
        let case = Case::of_review("pod", Expected::Rewritten(0), &lists(size));
        Ok(meter.run(&Arc::new(case), 7)?.call)
    };
    let (half, whole) = (spent(SIZE / 2)?, spent(SIZE)?);
    #[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
    let factor = whole as f64 / half.max(1) as f64;
    Ok(Measured {
        value: format!(
            "factor {factor:.2}, {} million instructions",
            whole / 1_000_000
        ),
        is_within_bound: factor <= FACTOR,
    })
}

/// A Pod whose lists take this many bytes together: containers of one image, and Secrets without a name before the real one.
fn lists(size: usize) -> Value {
    let containers: Vec<Value> = (0..size / 2 / 16)
        .map(|_| json!({ "image": "a:1" }))
        .collect();
    let mut secrets: Vec<Value> = (0..size / 2 / 3).map(|_| json!({})).collect();
    secrets.push(json!({ "name": "image-mirror-pull" }));
    pod(json!({ "containers": containers, "imagePullSecrets": secrets }))
}

fn variables(_: Setup) -> anyhow::Result<Measured> {
    let variables: Vec<Value> = (0..50_000)
        .map(|number| json!({ "name": format!("V{number}"), "value": "" }))
        .collect();
    let review =
        pod(json!({ "containers": [{ "name": "app", "image": "a:1", "env": variables }] }));
    let case = Case::of_review("pod", Expected::Rewritten(1), &review);
    let size = case.payload.len();
    let memory = meter()?.run(&Arc::new(case), 7)?.memory;
    Ok(Measured {
        value: format!("{} MiB for {} KiB", memory.div_ceil(1 << 20), size >> 10),
        is_within_bound: memory <= size * MEMORY,
    })
}

fn pod(spec: Value) -> Value {
    let mut review = fixtures::load("pod-create");
    let object = if review["request"].is_null() {
        &mut review["object"]
    } else {
        &mut review["request"]["object"]
    };
    object["spec"] = spec;
    review
}

fn meter() -> anyhow::Result<Meter> {
    let wasm = std::fs::read(artifacts::policy_module()?).context("the policy cannot be read")?;
    Meter::new(&wasm)
}
