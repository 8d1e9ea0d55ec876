//! Field paths and field errors, as upstream's `field` package words them.

use std::fmt;

/// A path into an object, such as `spec.containers[0].image`.
///
/// A linked list on the stack: building a child costs nothing until an error needs the text.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// The path of a top-level field.
    pub const fn new(name: &'a str) -> Self {
        Path { parent: None, step: Step::Name(name) }
    }

    /// The path of a field below this one.
    pub const fn child<'b>(&'b self, name: &'b str) -> Path<'b>
    where
        'a: 'b,
    {
        Path { parent: Some(self), step: Step::Name(name) }
    }

    /// The path of an element of the list at this path.
    pub const fn index<'b>(&'b self, index: usize) -> Path<'b>
    where
        'a: 'b,
    {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// The path of an entry of the map at this path.
    pub const fn key<'b>(&'b self, key: &'b str) -> Path<'b>
    where
        'a: 'b,
    {
        Path { parent: Some(self), step: Step::Key(key) }
    }
}

impl Path<'_> {
    /// Whether it stands for the object itself.
    fn is_object(&self) -> bool {
        self.parent.is_none() && matches!(self.step, Step::Name(""))
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent}")?;
        }
        match self.step {
            // An empty name stands for the object itself, as in upstream's `field.NewPath("")`.
            Step::Name("") => Ok(()),
            Step::Name(name) if self.parent.is_some_and(|p| !p.is_object()) => write!(f, ".{name}"),
            Step::Name(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// What is wrong with a field; [`Reason::cause`] is the `reason` of the cause in a `Status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A required value is absent.
    Required,
    /// The value is malformed or not allowed here.
    Invalid,
    /// The value is not one of the allowed ones.
    NotSupported,
    /// The value must be unique and is not.
    Duplicate,
    /// The value is not permitted by policy or by what is already there.
    Forbidden,
    /// A referenced thing does not exist.
    NotFound,
    /// The value is longer than allowed.
    TooLong,
    /// The list has more items than allowed.
    TooMany,
    /// The list has fewer items than required.
    TooFew,
    /// The value has the wrong JSON type.
    TypeInvalid,
    /// The fault is ours.
    Internal,
}

impl Reason {
    /// The machine-readable cause, for example `FieldValueRequired`.
    pub const fn cause(self) -> &'static str {
        match self {
            Reason::Required => "FieldValueRequired",
            Reason::Invalid => "FieldValueInvalid",
            Reason::NotSupported => "FieldValueNotSupported",
            Reason::Duplicate => "FieldValueDuplicate",
            Reason::Forbidden => "FieldValueForbidden",
            Reason::NotFound => "FieldValueNotFound",
            Reason::TooLong => "FieldValueTooLong",
            Reason::TooMany => "FieldValueTooMany",
            Reason::TooFew => "FieldValueTooFew",
            Reason::TypeInvalid => "FieldValueTypeInvalid",
            Reason::Internal => "InternalError",
        }
    }
}

/// One fault in one field. `message` is the text after the path, as upstream words it:
/// `Invalid value: "x": must be ...`, `Required value: ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// What is wrong.
    pub reason: Reason,
    /// Where, for example `spec.replicas`.
    pub field: String,
    /// In words, without the path.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// All faults found in an object so far; validation never stops at the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors(pub Vec<FieldError>);

impl Errors {
    /// No faults yet.
    pub const fn new() -> Self {
        Errors(Vec::new())
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A required field is absent. `detail` may be empty.
    pub fn required(&mut self, path: &Path<'_>, detail: &str) {
        self.push(Reason::Required, path, join("Required value", detail));
    }

    /// A value is not valid. `value` is shown as JSON (strings quoted).
    pub fn invalid(&mut self, path: &Path<'_>, value: impl Into<serde_json::Value>, detail: &str) {
        let value = value.into();
        self.push(Reason::Invalid, path, join(&format!("Invalid value: {value}"), detail));
    }

    /// A value is not one of `supported`.
    pub fn not_supported(
        &mut self,
        path: &Path<'_>,
        value: impl Into<serde_json::Value>,
        supported: &[&str],
    ) {
        let value = value.into();
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        self.push(
            Reason::NotSupported,
            path,
            format!("Unsupported value: {value}: supported values: {}", list.join(", ")),
        );
    }

    /// A value that must be unique is not.
    pub fn duplicate(&mut self, path: &Path<'_>, value: impl Into<serde_json::Value>) {
        let value = value.into();
        self.push(Reason::Duplicate, path, format!("Duplicate value: {value}"));
    }

    /// A value may not be set, or not changed.
    pub fn forbidden(&mut self, path: &Path<'_>, detail: &str) {
        self.push(Reason::Forbidden, path, join("Forbidden", detail));
    }

    /// A referenced thing does not exist.
    pub fn not_found(&mut self, path: &Path<'_>, value: impl Into<serde_json::Value>) {
        let value = value.into();
        self.push(Reason::NotFound, path, format!("Not found: {value}"));
    }

    /// A text is longer than `max` bytes.
    pub fn too_long(&mut self, path: &Path<'_>, max: usize) {
        self.push(Reason::TooLong, path, format!("Too long: may not be more than {max} bytes"));
    }

    /// A list has `actual` items, more than `max`.
    pub fn too_many(&mut self, path: &Path<'_>, actual: usize, max: usize) {
        let plural = if max == 1 { "item" } else { "items" };
        self.push(Reason::TooMany, path, format!("Too many: {actual}: must have at most {max} {plural}"));
    }

    /// Any other fault, in the words given.
    pub fn push(&mut self, reason: Reason, path: &Path<'_>, message: String) {
        self.0.push(FieldError { reason, field: path.to_string(), message });
    }
}

fn join(head: &str, detail: &str) -> String {
    if detail.is_empty() { head.to_owned() } else { format!("{head}: {detail}") }
}
