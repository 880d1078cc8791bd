//! The evaluation of one request: the order of all steps.

use std::cell::LazyCell;

use mirror_contract::{Mode, Settings};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::decide::{Workload, decide};
use crate::exclusions::{self, Exclusion};
use crate::host::Host;
use crate::log;
use crate::object::Object;
use crate::old_object::OldObject;
use crate::originals_annotation::OriginalsAnnotation;
use crate::pull_secrets::PullSecrets;
use crate::request::{Payload, Request, Scope, Target};
use crate::response::{self, Report, Response};
use crate::rewrite;
use crate::rollout;
use crate::sidecar_client::SidecarClient;
use crate::validate_settings;

/// Returns the response to the `payload` of Kubewarden's function `validate`. An invalid payload is accepted unchanged, with a
/// warning.
pub fn evaluate<'a>(payload: &'a [u8], host: &mut impl Host) -> Response<'a> {
    let payload = match str::from_utf8(payload) {
        Ok(payload) => serde_json::from_str(payload),
        Err(error) => return response::unchanged_with_warning("cannot parse the request", &error),
    };
    let Payload { settings, request } = match payload {
        Ok(payload) => payload,
        Err(error) => return response::unchanged_with_warning("cannot parse the request", &error),
    };
    let Some(target) = Target::of(&request) else {
        return response::unchanged();
    };
    let settings = settings.map_or("{}", RawValue::get);
    let settings: Value = match serde_json::from_str(settings) {
        Ok(settings) => settings,
        Err(error) => {
            return response::unchanged_with_warning("cannot parse the policy settings", &error);
        }
    };
    let settings = match Settings::parse(&settings) {
        Ok(settings) => settings,
        Err(errors) => {
            let error = validate_settings::describe(&errors);
            return response::unchanged_with_warning("invalid policy settings", &error);
        }
    };
    if settings.excludes_namespace(request.namespace.as_deref().unwrap_or_default()) {
        return response::unchanged();
    }
    let Some(object) = request.object else {
        return response::unchanged();
    };
    match Object::read(object.get(), target.path, &settings) {
        Some(object) => admit(&request, &object, &target, &settings, host),
        None => response::unchanged_with_warning("cannot parse the object", &"nested too deeply"),
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
        return response::unchanged();
    };
    match exclusions::exclusion(object, target) {
        Exclusion::None => {}
        Exclusion::Full => return response::unchanged(),
        Exclusion::ExceptPods => return response::unchanged_except_pods(),
    }
    let old_object = OldObject::new(request.old_object.map(RawValue::get), target, settings);
    if target.scope == Scope::Nothing {
        return response::changed(rewrite::restore_job(object, &old_object));
    }
    if exclusions::is_rewritten_by_another(object, &old_object, settings) {
        return response::unchanged();
    }
    let slots = spec.images.changeable(target.scope, &old_object);

    let mode = if request.dry_run == Some(true) {
        Mode::Peek
    } else {
        Mode::Ensure
    };
    let mut sidecar =
        SidecarClient::new(host, settings.sidecar.clone(), mode, settings.time_budget);
    let annotation = OriginalsAnnotation::verified(template, settings);
    // Compares the whole template, so at most once.
    let may_rename = LazyCell::new(|| rollout::is_due(object, &old_object, target));
    let workload = Workload {
        slots: &slots,
        namespace: request.namespace.as_deref().unwrap_or_default(),
        secrets: PullSecrets::of(&spec.secrets, target),
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
        return response::unchanged();
    }
    let (host, host_error) = sidecar.into_parts();

    // The invalid fields of a running Pod were reported when it was created.
    let is_new = target.scope == Scope::Everything;
    let invalid_fields = is_new.then_some(&spec.images.invalid_fields);
    let report = Report::new(&plan, invalid_fields, settings, &old_object);
    log::report(&report, request, host_error.as_deref(), host);
    if report.is_rejection() {
        return report.into_rejection();
    }
    let edited = rewrite::rewrite(object, target, plan, annotation.clone(), &old_object);
    report.into_acceptance(edited)
}
