//! The evaluation of one request, from its bytes to the answer.

use kubewarden_policy_sdk::response::ValidationResponse;
use mirror_contract::Mode;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::before::Before;
use crate::decide::{Workload, decide};
use crate::exempt::{Exemption, exemption};
use crate::host::Host;
use crate::images::Images;
use crate::immutable;
use crate::log;
use crate::mirror::Mirror;
use crate::note::Note;
use crate::pod_template::{Scope, Target};
use crate::pull_secrets::PullSecrets;
use crate::request::{Payload, Request};
use crate::response::{self, Report};
use crate::rewrite::rewrite;
use crate::settings::{self, Settings};

/// Answers an admission request: `payload` is the JSON that Kubewarden hands to the function `validate`.
///
/// There is an answer for any payload; one that cannot be understood is accepted as it is, with a warning.
pub fn validate(payload: &[u8], host: &mut impl Host) -> ValidationResponse {
    match str::from_utf8(payload) {
        Ok(payload) => evaluate(payload, host),
        Err(error) => response::not_understood("the request cannot be read", &error),
    }
}

fn evaluate(payload: &str, host: &mut impl Host) -> ValidationResponse {
    let Payload { settings, request } = match serde_json::from_str(payload) {
        Ok(payload) => payload,
        Err(error) => return response::not_understood("the request cannot be read", &error),
    };
    let Some(target) = Target::of(&request) else {
        return response::left_alone();
    };
    let settings = settings.map_or("{}", RawValue::get);
    let settings: Value = match serde_json::from_str(settings) {
        Ok(settings) => settings,
        Err(error) => {
            return response::not_understood("the policy's settings cannot be read", &error);
        }
    };
    let settings = match Settings::parse(&settings) {
        Ok(settings) => settings,
        Err(errors) => {
            let error = settings::describe(&errors);
            return response::not_understood("the policy's settings are wrong", &error);
        }
    };
    if settings.excludes(request.namespace.as_deref().unwrap_or_default()) {
        return response::left_alone();
    }
    let Some(object) = request.object else {
        return response::left_alone();
    };
    match serde_json::from_str(object.get()) {
        Ok(object) => admit(&request, object, &target, &settings, host),
        Err(error) => response::not_understood("the object cannot be read", &error),
    }
}

fn admit(
    request: &Request<'_>,
    mut object: Value,
    target: &Target,
    settings: &Settings<'_>,
    host: &mut impl Host,
) -> ValidationResponse {
    let Some(spec) = target.pod_spec(&object) else {
        log::unknown_shape(request, host);
        return response::left_alone();
    };
    match exemption(&object, target, settings) {
        Exemption::None => {}
        Exemption::Whole => return response::left_alone(),
        Exemption::ButForPods => return response::left_alone_but_for_pods(),
    }
    let old_object = request.old_object();
    if target.scope == Scope::Nothing {
        let before = Before::new(&old_object, target);
        let is_changed = immutable::put_back(&mut object, target, &before);
        return response::without_a_word(is_changed.then_some(object));
    }
    let before = Before::new(&old_object, target);
    let images = Images::of(spec).changeable(target.scope, &before);

    let mode = if request.dry_run == Some(true) {
        Mode::Peek
    } else {
        Mode::Ensure
    };
    let mut mirror = Mirror::new(host, settings.sidecar.clone(), mode, settings.time_budget);
    let note = target.template(&object).map(Note::on).unwrap_or_default();
    let workload = Workload {
        slots: &images.slots,
        namespace: request.namespace.as_deref().unwrap_or_default(),
        secrets: PullSecrets::of(spec, target),
        note: &note,
        before: &before,
        is_new: &|| before.spec() != Some(spec),
    };
    let plan = decide(&workload, &mut mirror, settings);
    let (host, trouble) = mirror.into_parts();

    let report = Report::new(&plan, &images.oddities, settings, &before);
    log::report(&report, request, trouble.as_deref(), host);
    if report.is_rejection() {
        return report.into_rejection();
    }
    let is_changed = rewrite(&mut object, target, plan, note);
    report.into_acceptance(is_changed.then_some(object))
}
