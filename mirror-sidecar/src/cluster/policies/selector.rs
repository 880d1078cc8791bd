//! Label selectors, as `metav1.LabelSelector` has them.

use serde_json::Value;

use crate::cluster::json_fields::{field, list, text};
use crate::cluster::workload::Labels;

/// Label with the name of a namespace, which the API server sets since Kubernetes 1.21.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Matches objects that meet all its requirements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl Selector {
    /// Parses `matchLabels` and `matchExpressions`; `null` matches everything.
    pub(super) fn parse(selector: &Value) -> Result<Self, String> {
        let labels = field(selector, "matchLabels")
            .as_object()
            .into_iter()
            .flatten();
        let labels = labels.map(|(key, value)| {
            let value = value
                .as_str()
                .ok_or_else(|| format!("matchLabels.{key} is not a string"))?;
            Ok(Requirement {
                key: key.clone(),
                operator: Operator::In,
                values: vec![value.to_owned()],
            })
        });
        let mut requirements = labels.collect::<Result<Vec<_>, String>>()?;
        requirements.extend(Self::parse_expressions(selector)?.0);
        Ok(Self(requirements))
    }

    /// Parses `matchExpressions` alone.
    pub(super) fn parse_expressions(selector: &Value) -> Result<Self, String> {
        let expressions = list(selector, "matchExpressions").iter();
        let requirements = expressions.map(|expression| {
            let operator = match text(expression, "operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(format!(
                        "matchExpressions has an unknown operator {other:?}"
                    ));
                }
            };
            let values = list(expression, "values").iter().filter_map(Value::as_str);
            Ok(Requirement {
                key: text(expression, "key").to_owned(),
                operator,
                values: values.map(str::to_owned).collect(),
            })
        });
        requirements.collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn matches(&self, labels: &Labels) -> bool {
        let mut requirements = self.0.iter();
        requirements.all(|requirement| requirement.matches(labels.get(&requirement.key)))
    }

    /// Returns whether labels other than the name of a namespace matter.
    pub(super) fn reads_more_than_name(&self) -> bool {
        let mut requirements = self.0.iter();
        requirements.any(|requirement| requirement.key != NAME_LABEL)
    }

    /// Returns whether it matches a namespace; `None` if that depends on labels that are not known.
    pub(super) fn matches_namespace(&self, name: &str, labels: Option<&Labels>) -> Option<bool> {
        let name = name.to_owned();
        let mut depends = false;
        for requirement in &self.0 {
            let matches = if requirement.key == NAME_LABEL {
                requirement.matches(Some(&name))
            } else if let Some(labels) = labels {
                requirement.matches(labels.get(&requirement.key))
            } else {
                depends = true;
                continue;
            };
            if !matches {
                return Some(false);
            }
        }
        (!depends).then_some(true)
    }
}

impl Requirement {
    fn matches(&self, value: Option<&String>) -> bool {
        let is_listed = || value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::In => is_listed(),
            Operator::NotIn => !is_listed(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}
