//! The evaluation of one request, from its bytes to the response.

use std::cell::LazyCell;

use mirror_contract::Mode;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::decide::{Workload, decide};
use crate::exclusions::{Exclusion, exclusion};
use crate::host::Host;
use crate::job_update;
use crate::log;
use crate::object::Object;
use crate::old_object::OldObject;
use crate::originals_annotation::OriginalsAnnotation;
use crate::other_installation;
use crate::pod_template::{Scope, Target};
use crate::pull_secrets::PullSecrets;
use crate::request::{Payload, Request};
use crate::response::{self, Report, Response};
use crate::rewrite::rewrite;
use crate::rollout;
use crate::settings::{self, Settings};
use crate::sidecar_client::SidecarClient;

/// Answers an admission request: `payload` is the JSON that Kubewarden hands to the function `validate`.
///
/// There is a response for any payload; one that cannot be understood is accepted as it is, with a warning.
pub fn evaluate<'a>(payload: &'a [u8], host: &mut impl Host) -> Response<'a> {
    let payload = match str::from_utf8(payload) {
        Ok(payload) => serde_json::from_str(payload),
        Err(error) => return response::not_understood("the request cannot be read", &error),
    };
    let Payload { settings, request } = match payload {
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
    match Object::read(object.get(), target.path, &settings) {
        Some(object) => admit(&request, &object, &target, &settings, host),
        None => response::not_understood("the object cannot be read", &"it is nested too deeply"),
    }
}

fn admit<'a>(
    request: &Request<'a>,
    object: &Object<'a>,
    target: &Target,
    settings: &Settings<'_>,
    host: &mut impl Host,
) -> Response<'a> {
    let (Some(template), Some(spec)) = (object.template(), object.spec()) else {
        log::unknown_shape(request, host);
        return response::left_alone();
    };
    match exclusion(object, target) {
        Exclusion::None => {}
        Exclusion::Whole => return response::left_alone(),
        Exclusion::ButForPods => return response::left_alone_but_for_pods(),
    }
    let old_object = OldObject::new(request.old_object.map(RawValue::get), target, settings);
    if target.scope == Scope::Nothing {
        return response::without_a_word(job_update::put_back(object, &old_object));
    }
    if other_installation::has_rewritten(object, &old_object, &settings.known_copies) {
        return response::left_alone();
    }
    let slots = spec.images.changeable(target.scope, &old_object);

    let mode = if request.dry_run == Some(true) {
        Mode::Peek
    } else {
        Mode::Ensure
    };
    let mut sidecar =
        SidecarClient::new(host, settings.sidecar.clone(), mode, settings.time_budget);
    let annotation = OriginalsAnnotation::verified(template, &settings.known_copies);
    // It compares the whole template, so it is done once at most.
    let may_rename = LazyCell::new(|| rollout::is_due(object, &old_object, target));
    let workload = Workload {
        slots: &slots,
        namespace: request.namespace.as_deref().unwrap_or_default(),
        secrets: PullSecrets::of(spec, target),
        annotation: &annotation,
        is_injected: object.is_injected(),
        old_object: &old_object,
        is_new: &|| old_object.spec().map(|spec| spec.text) != Some(spec.text),
        may_rename: &|| *may_rename,
    };
    let plan = decide(&workload, &mut sidecar, settings);
    let controller = &object.metadata().controller;
    if target.is_pod
        && target.scope == Scope::Everything
        && plan.rewrites_anything()
        && !controller.name.is_empty()
        && sidecar.skips_owner(workload.namespace, controller)
    {
        return response::left_alone();
    }
    let (host, error) = sidecar.into_parts();

    // What is odd about a running Pod was admitted before.
    let is_new = target.scope == Scope::Everything;
    let oddities = is_new.then_some(&spec.images.oddities);
    let report = Report::new(&plan, oddities, settings, &old_object);
    log::report(&report, request, error.as_deref(), host);
    if report.is_rejection() {
        return report.into_rejection();
    }
    let edited = rewrite(object, target, plan, annotation.clone(), &old_object);
    report.into_acceptance(edited)
}
