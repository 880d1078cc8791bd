//! The function `validate_settings` of Kubewarden.

use kubewarden_policy_sdk::settings::SettingsValidationResponse;
use mirror_contract::Settings;
use serde_json::Value;

/// Returns the response to the `payload` of Kubewarden's function `validate_settings`.
///
/// The host is not called: it does not respond while it starts.
#[must_use]
pub fn validate_settings(payload: &[u8]) -> SettingsValidationResponse {
    let parsed = str::from_utf8(payload)
        .map_err(|error| error.to_string())
        .and_then(|text| serde_json::from_str::<Value>(text).map_err(|error| error.to_string()));
    let message = match parsed {
        Ok(value) => Some(describe(&Settings::check(&value))).filter(|errors| !errors.is_empty()),
        Err(error) => Some(format!("cannot parse the settings: {error}")),
    };
    SettingsValidationResponse {
        valid: message.is_none(),
        message,
    }
}

pub fn describe(errors: &[String]) -> String {
    errors.join("; ")
}
