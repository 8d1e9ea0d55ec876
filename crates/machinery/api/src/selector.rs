//! Label and field selectors: upstream's grammar, error texts, canonical text and matching.
//!
//! Source: `apimachinery/pkg/labels/selector.go`, `apimachinery/pkg/fields/selector.go`,
//! `apimachinery/pkg/apis/meta/v1/helpers.go`.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as WireSelector;
use serde_json::Value;

use crate::kinds::validate;

mod parse;

/// Why a selector cannot be used, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

/// How a requirement relates its key and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `x in (a,b)`
    In,
    /// `x notin (a,b)`; also true where the key is absent
    NotIn,
    /// `x=a`
    Equals,
    /// `x==a`
    DoubleEquals,
    /// `x!=a`; also true where the key is absent
    NotEquals,
    /// `x`
    Exists,
    /// `!x`
    DoesNotExist,
    /// `x>1`
    GreaterThan,
    /// `x<1`
    LessThan,
}

impl Operator {
    /// The name in `matchExpressions`, node selectors and tolerations.
    pub fn from_wire(name: &str) -> Option<Self> {
        Some(match name {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::GreaterThan,
            "Lt" => Operator::LessThan,
            _ => return None,
        })
    }
}

/// One condition on one key. `values` are sorted and unique.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
    /// The value of `>` and `<`, parsed once.
    bound: i64,
}

impl Requirement {
    /// A checked requirement. `path` is where the values stand, for error texts (upstream's default is empty).
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, SelectorError> {
        let mut errors: Vec<String> = Vec::new();
        let key_faults = validate::qualified_name(key);
        if !key_faults.is_empty() {
            errors.push(format!("key: Invalid value: {key:?}: {}", key_faults.join("; ")));
        }
        let shown = || Value::from(values.clone()).to_string();
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => errors.push(format!(
                "values: Invalid value: {}: for 'in', 'notin' operators, values set can't be empty",
                shown()
            )),
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => errors
                .push(format!(
                    "values: Invalid value: {}: exact-match compatibility requires one single value",
                    shown()
                )),
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => errors.push(format!(
                "values: Invalid value: {}: values set must be empty for exists and does not exist",
                shown()
            )),
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    errors.push(format!(
                        "values: Invalid value: {}: for 'Gt', 'Lt' operators, exactly one value is required",
                        shown()
                    ));
                }
                for (index, value) in values.iter().enumerate().filter(|(_, v)| v.parse::<i64>().is_err()) {
                    errors.push(format!(
                        "values[{index}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
                    ));
                }
            }
            _ => {}
        }
        for (index, value) in values.iter().enumerate() {
            let faults = validate::label_value(value);
            if !faults.is_empty() {
                errors
                    .push(format!("values[{index}][{key}]: Invalid value: {value:?}: {}", faults.join("; ")));
            }
        }
        match errors.len() {
            0 => Ok(Self::unchecked(key.to_owned(), operator, values)),
            1 => Err(SelectorError(errors.remove(0))),
            _ => Err(SelectorError(format!("[{}]", errors.join(", ")))),
        }
    }

    /// A requirement of an object that is known to be valid.
    fn unchecked(key: String, operator: Operator, values: Vec<String>) -> Self {
        let bound = match operator {
            Operator::GreaterThan | Operator::LessThan => {
                values.first().and_then(|v| v.parse().ok()).unwrap_or(0)
            }
            _ => 0,
        };
        Requirement { key, operator, values, bound }
    }

    /// The label's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The operator.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// The values, in the order given (sorted when parsed from text).
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether a label with this value, or its absence, meets the requirement.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let number = |v: &str| v.parse::<i64>().ok();
        match (self.operator, value) {
            (Operator::In | Operator::Equals | Operator::DoubleEquals, v) => v.is_some_and(|v| self.has(v)),
            (Operator::NotIn | Operator::NotEquals, v) => !v.is_some_and(|v| self.has(v)),
            (Operator::Exists, v) => v.is_some(),
            (Operator::DoesNotExist, v) => v.is_none(),
            (Operator::GreaterThan, v) => v.and_then(number).is_some_and(|n| n > self.bound),
            (Operator::LessThan, v) => v.and_then(number).is_some_and(|n| n < self.bound),
        }
    }

    fn has(&self, value: &str) -> bool {
        self.values.iter().any(|v| v == value)
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.operator == Operator::DoesNotExist {
            f.write_str("!")?;
        }
        f.write_str(&self.key)?;
        let (open, close) = match self.operator {
            Operator::Exists | Operator::DoesNotExist => return Ok(()),
            Operator::Equals => ("=", ""),
            Operator::DoubleEquals => ("==", ""),
            Operator::NotEquals => ("!=", ""),
            Operator::GreaterThan => (">", ""),
            Operator::LessThan => ("<", ""),
            Operator::In => (" in (", ")"),
            Operator::NotIn => (" notin (", ")"),
        };
        let mut values: Vec<&str> = self.values.iter().map(String::as_str).collect();
        values.sort_unstable();
        write!(f, "{open}{}{close}", values.join(","))
    }
}

/// A conjunction of requirements on labels, or nothing at all. Requirements are sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Matches every object.
    pub const fn everything() -> Self {
        LabelSelector { requirements: Vec::new(), nothing: false }
    }

    /// Matches no object.
    pub const fn nothing() -> Self {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }

    /// The conjunction of `requirements`.
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector { requirements, nothing: false }
    }

    /// Parses the text of a `labelSelector` parameter, for example `x in (foo,,baz),y,z notin ()`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        parse::label_selector(text).map(Self::new)
    }

    /// Equality with every pair, as Services and ReplicationControllers select. An empty set matches everything.
    pub fn from_set<'a>(set: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self::new(
            set.into_iter()
                .map(|(key, value)| {
                    Requirement::unchecked(key.to_owned(), Operator::Equals, vec![value.to_owned()])
                })
                .collect(),
        )
    }

    /// The selector of an object's field. An empty one matches everything; for an absent one see [`Self::from_option`].
    pub fn from_object(wire: &WireSelector) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for (key, value) in wire.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key, Operator::Equals, vec![value.clone()])?);
        }
        for expression in wire.match_expressions.iter().flatten() {
            let values = expression.values.clone().unwrap_or_default();
            requirements.push(from_expression(&expression.key, &expression.operator, values)?);
        }
        Ok(Self::new(requirements))
    }

    /// As upstream's `LabelSelectorAsSelector`: an absent selector matches nothing.
    pub fn from_option(wire: Option<&WireSelector>) -> Result<Self, SelectorError> {
        wire.map_or(Ok(Self::nothing()), Self::from_object)
    }

    /// The same for a JSON tree; null matches nothing.
    pub fn from_value(wire: &Value) -> Result<Self, SelectorError> {
        if wire.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Vec::new();
        for (key, value) in wire.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::new(key, Operator::Equals, vec![value])?);
        }
        for expression in wire.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
            let values = expression.get("values").and_then(Value::as_array);
            let values = values.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
            requirements.push(from_expression(text("key"), text("operator"), values)?);
        }
        Ok(Self::new(requirements))
    }

    /// Whether labels match; absent labels are the same as none.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_fn(|key| labels.get(key).map(String::as_str))
    }

    /// Whether the labels of typed metadata match.
    pub fn matches_option(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.matches_fn(|key| labels.and_then(|l| l.get(key)).map(String::as_str))
    }

    /// Whether labels looked up by `get` match.
    pub fn matches_fn<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(get(&r.key)))
    }

    /// Whether the labels of an object's JSON tree match.
    pub fn matches_value(&self, object: &Value) -> bool {
        let labels = object.get("metadata").and_then(|m| m.get("labels"));
        self.matches_fn(|key| labels.and_then(|l| l.get(key)).and_then(Value::as_str))
    }

    /// Whether it restricts nothing.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether it can match no object by construction.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// The conditions, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// The one value this key must have, where the selector names exactly one; for looking up an index.
    pub fn exact_requirement(&self, key: &str) -> Option<&str> {
        let requirement = self.requirements.iter().find(|r| r.key == key)?;
        match (requirement.operator, requirement.values.as_slice()) {
            (Operator::Equals | Operator::DoubleEquals | Operator::In, [value]) => Some(value),
            _ => None,
        }
    }
}

/// The text that parses back to the same selector; `nothing` has none and is empty, as upstream.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl std::str::FromStr for LabelSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

fn from_expression(key: &str, operator: &str, values: Vec<String>) -> Result<Requirement, SelectorError> {
    let operator = match operator {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        _ => return Err(SelectorError(format!("{operator:?} is not a valid label selector operator"))),
    };
    Requirement::new(key, operator, values)
}

/// One condition on one field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldRequirement {
    /// The field, for example `spec.nodeName`.
    pub field: String,
    /// What it is compared with.
    pub value: String,
    /// `true` for `=` and `==`, `false` for `!=`.
    pub equals: bool,
}

/// A conjunction of equalities and inequalities on fields. An absent field has the empty value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Matches every object.
    pub const fn everything() -> Self {
        FieldSelector { requirements: Vec::new() }
    }

    /// Parses the text of a `fieldSelector` parameter, for example `spec.nodeName=n1,status.phase!=Failed`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        parse::field_selector(text).map(|requirements| FieldSelector { requirements })
    }

    /// The conditions, sorted by their text.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// The same conditions on other fields.
    ///
    /// # Errors
    /// Those of `rename`.
    pub fn map_fields<E>(mut self, rename: impl Fn(&str) -> Result<String, E>) -> Result<Self, E> {
        for requirement in &mut self.requirements {
            requirement.field = rename(&requirement.field)?;
        }
        Ok(self)
    }

    /// Whether it restricts nothing.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether an object whose fields are looked up by `get` matches.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| (get(&r.field).unwrap_or_default() == r.value) == r.equals)
    }

    /// The one value this field must have, where the selector names it.
    pub fn exact_requirement(&self, field: &str) -> Option<&str> {
        self.requirements.iter().find(|r| r.equals && r.field == field).map(|r| r.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let operator = if requirement.equals { "=" } else { "!=" };
            write!(f, "{}{operator}{}", requirement.field, parse::escape_field_value(&requirement.value))?;
        }
        Ok(())
    }
}

impl std::str::FromStr for FieldSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests;
