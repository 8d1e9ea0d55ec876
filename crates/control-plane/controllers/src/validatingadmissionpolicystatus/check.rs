//! Types of expressions, as far as they are known: what is not known goes with everything.

use std::collections::BTreeMap;
use std::fmt;

use podium_api::schema::{Field, Kind, Shape, TypeId};

use super::expression::{Expr, Issue, Node, parse};

/// What a part of an expression is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// Anything.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    List(Box<Type>),
    /// From strings.
    Map(Box<Type>),
    Object(TypeId),
    /// `variables`, by name.
    Variables(BTreeMap<String, Type>),
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Dyn => "dyn",
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Timestamp => "timestamp",
            Self::List(item) => return write!(f, "list({item})"),
            Self::Map(value) => return write!(f, "map(string, {value})"),
            Self::Object(type_) => type_.go_name(),
            Self::Variables(_) => "kubernetes.variables",
        };
        f.write_str(name)
    }
}

impl Type {
    fn of(field: &Field) -> Self {
        let one = match field.kind {
            Kind::String => Self::String,
            Kind::Bool => Self::Bool,
            Kind::Int32 | Kind::Int64 => Self::Int,
            Kind::Double => Self::Double,
            Kind::Bytes => Self::Bytes,
            Kind::Time | Kind::MicroTime => Self::Timestamp,
            Kind::Strings => Self::List(Box::new(Self::String)),
            Kind::Object(type_) => Self::Object(type_),
            // Numbers or texts, and things without fields of their own.
            Kind::Quantity
            | Kind::IntOrString
            | Kind::RawExtension
            | Kind::Json
            | Kind::FieldsV1
            | Kind::SchemaOrArray
            | Kind::SchemaOrBool
            | Kind::SchemaOrStrings => Self::Dyn,
        };
        match field.shape {
            Shape::One => one,
            Shape::List => Self::List(Box::new(one)),
            Shape::Map => Self::Map(Box::new(one)),
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double)
    }

    /// Whether a value of one may be one of the other.
    fn goes_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dyn | Self::Null, _) | (_, Self::Dyn | Self::Null) => true,
            (Self::List(one), Self::List(other)) | (Self::Map(one), Self::Map(other)) => one.goes_with(other),
            (one, other) => one == other,
        }
    }
}

/// Names that are always declared: types, and the first parts of the names of functions.
const ALWAYS: &[&str] = &[
    "bool",
    "bytes",
    "double",
    "duration",
    "dyn",
    "google",
    "int",
    "list",
    "map",
    "null_type",
    "optional",
    "string",
    "timestamp",
    "type",
    "uint",
    "optional_type",
    "math",
    "sets",
    "strings",
    "lists",
    "regex",
    "format",
    "base64",
    "ip",
    "cidr",
    "quantity",
    "semver",
    "url",
    "kubernetes",
    "cel",
];

/// What can be named, innermost last.
pub(crate) struct Scope {
    names: Vec<(String, Type)>,
}

impl Scope {
    pub(crate) fn new(names: impl IntoIterator<Item = (&'static str, Type)>) -> Self {
        Self { names: names.into_iter().map(|(name, type_)| (name.to_owned(), type_)).collect() }
    }

    /// Checks an expression: its type, and what is wrong with it.
    pub(crate) fn check(&mut self, text: &str) -> (Type, Vec<Issue>) {
        let mut issues = Vec::new();
        match parse(text) {
            Ok(node) => {
                let type_ = self.type_of(&node, &mut issues);
                issues.sort_by_key(|issue| issue.at);
                (type_, issues)
            }
            Err(issue) => (Type::Dyn, vec![issue]),
        }
    }

    fn type_of(&mut self, node: &Node, issues: &mut Vec<Issue>) -> Type {
        let mut wrong = |message: String| {
            issues.push(Issue { at: node.at, message });
            Type::Dyn
        };
        match &node.expr {
            Expr::Null => Type::Null,
            Expr::Bool => Type::Bool,
            Expr::Int => Type::Int,
            Expr::Uint => Type::Uint,
            Expr::Double => Type::Double,
            Expr::String => Type::String,
            Expr::Bytes => Type::Bytes,
            Expr::Name(name) => match self.names.iter().rev().find(|(known, _)| known == name) {
                Some((_, type_)) => type_.clone(),
                None if ALWAYS.contains(&name.as_str()) => Type::Dyn,
                None => wrong(format!("undeclared reference to '{name}' (in container '')")),
            },
            Expr::Select { of, field, optional } => {
                let of = self.type_of(of, issues);
                match select(&of, field) {
                    Ok(type_) => {
                        if *optional {
                            Type::Dyn
                        } else {
                            type_
                        }
                    }
                    Err(message) => {
                        issues.push(Issue { at: node.at, message });
                        Type::Dyn
                    }
                }
            }
            Expr::Operator { name, of } => {
                let types: Vec<Type> = of.iter().map(|operand| self.type_of(operand, issues)).collect();
                operate(name, &types).unwrap_or_else(|| {
                    let types: Vec<String> = types.iter().map(ToString::to_string).collect();
                    let message = format!(
                        "found no matching overload for '{name}' applied to '({})'",
                        types.join(", ")
                    );
                    issues.push(Issue { at: node.at, message });
                    Type::Dyn
                })
            }
            Expr::Call { on, function, arguments } => self.call(on.as_deref(), function, arguments, issues),
            Expr::List(items) => {
                let mut types =
                    items.iter().map(|item| self.type_of(item, issues)).collect::<Vec<_>>().into_iter();
                let first = types.next().unwrap_or(Type::Dyn);
                let same = types.all(|type_| type_ == first);
                Type::List(Box::new(if same { first } else { Type::Dyn }))
            }
            Expr::Map(parts) | Expr::Message(parts) => {
                for part in parts {
                    self.type_of(part, issues);
                }
                Type::Dyn
            }
        }
    }

    fn call(
        &mut self,
        on: Option<&Node>,
        function: &str,
        arguments: &[Node],
        issues: &mut Vec<Issue>,
    ) -> Type {
        let of = on.map(|on| self.type_of(on, issues));
        let bound = arguments.iter().take_while(|it| matches!(it.expr, Expr::Name(_))).count();
        let is_macro = matches!(function, "all" | "exists" | "exists_one" | "existsOne" | "map" | "filter")
            || function.starts_with("transform");
        if let Some(of) = of.as_ref().filter(|_| is_macro && bound > 0 && arguments.len() > 1) {
            return self.comprehension(of, function, bound, arguments, issues);
        }
        // cel.bind(name, value, expression)
        if function == "bind"
            && bound > 0
            && let [Node { expr: Expr::Name(name), .. }, value, body] = arguments
        {
            let value = self.type_of(value, issues);
            return self.within([(name.clone(), value)].into(), |scope| scope.type_of(body, issues));
        }
        for argument in arguments {
            self.type_of(argument, issues);
        }
        match function {
            "size" => Type::Int,
            "has" | "startsWith" | "endsWith" | "contains" | "matches" | "bool" => Type::Bool,
            "string" => Type::String,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "bytes" => Type::Bytes,
            _ => Type::Dyn,
        }
    }

    fn comprehension(
        &mut self,
        of: &Type,
        function: &str,
        bound: usize,
        arguments: &[Node],
        issues: &mut Vec<Issue>,
    ) -> Type {
        // The last is never a name to be bound; with one name it is each item or key, with two they are index or key and value.
        let bound = bound.min(arguments.len() - 1).min(2).min(if function == "map" || function == "filter" {
            1
        } else {
            2
        });
        let types = match (of, bound) {
            (Type::List(item), 1) => vec![item.as_ref().clone()],
            (Type::List(item), _) => vec![Type::Int, item.as_ref().clone()],
            (Type::Map(_), 1) => vec![Type::String],
            (Type::Map(value), _) => vec![Type::String, value.as_ref().clone()],
            _ => vec![Type::Dyn; bound],
        };
        let names = arguments[..bound].iter().filter_map(|it| match &it.expr {
            Expr::Name(name) => Some(name.clone()),
            _ => None,
        });
        let last = self.within(names.zip(types).collect(), |scope| {
            let bodies = arguments[bound..].iter().map(|body| scope.type_of(body, issues));
            bodies.last().unwrap_or(Type::Dyn)
        });
        match function {
            "all" | "exists" | "exists_one" | "existsOne" => Type::Bool,
            "map" => Type::List(Box::new(last)),
            "filter" if matches!(of, Type::List(_)) => of.clone(),
            "filter" if matches!(of, Type::Map(_)) => Type::List(Box::new(Type::String)),
            _ => Type::Dyn,
        }
    }

    fn within<R>(&mut self, names: Vec<(String, Type)>, work: impl FnOnce(&mut Self) -> R) -> R {
        let before = self.names.len();
        self.names.extend(names);
        let result = work(self);
        self.names.truncate(before);
        result
    }
}

fn select(of: &Type, field: &str) -> Result<Type, String> {
    match of {
        Type::Object(type_) => {
            type_.field(field).map(Type::of).ok_or_else(|| format!("undefined field '{field}'"))
        }
        Type::Variables(known) => {
            known.get(field).cloned().ok_or_else(|| format!("undefined field '{field}'"))
        }
        Type::Map(value) => Ok(value.as_ref().clone()),
        Type::Dyn | Type::Null => Ok(Type::Dyn),
        other => Err(format!("type '{other}' does not support field selection")),
    }
}

/// The type of an operation; `None` when there is none for such operands.
fn operate(name: &str, of: &[Type]) -> Option<Type> {
    let all = |wanted: &Type| of.iter().all(|it| it.goes_with(wanted));
    let together = || of.iter().all(|it| it.goes_with(&of[0]));
    let any_unknown = of.contains(&Type::Dyn);
    match name {
        "_||_" | "_&&_" | "!_" => all(&Type::Bool).then_some(Type::Bool),
        "_?_:_" => {
            of[0].goes_with(&Type::Bool).then(|| if of[1] == of[2] { of[1].clone() } else { Type::Dyn })
        }
        "_==_" | "_!=_" => together().then_some(Type::Bool),
        "_<_" | "_<=_" | "_>_" | "_>=_" => {
            let ordered =
                |it: &Type| !matches!(it, Type::Null | Type::List(_) | Type::Map(_) | Type::Object(_));
            let numbers = of.iter().all(Type::is_number);
            (numbers || (together() && of.iter().all(ordered))).then_some(Type::Bool)
        }
        "@in" => match &of[1] {
            Type::List(item) => of[0].goes_with(item).then_some(Type::Bool),
            Type::Map(_) => of[0].goes_with(&Type::String).then_some(Type::Bool),
            Type::Dyn => Some(Type::Bool),
            _ => None,
        },
        "_[_]" => match &of[0] {
            Type::List(item) => {
                let index = matches!(of[1], Type::Dyn | Type::Int | Type::Uint | Type::Double);
                index.then(|| item.as_ref().clone())
            }
            Type::Map(value) => of[1].goes_with(&Type::String).then(|| value.as_ref().clone()),
            Type::Dyn => Some(Type::Dyn),
            _ => None,
        },
        _ if any_unknown => Some(Type::Dyn),
        "-_" => matches!(of[0], Type::Int | Type::Double).then(|| of[0].clone()),
        // A moment and a duration, of which nothing more is known here.
        "_+_" | "_-_" if of.contains(&Type::Timestamp) => Some(Type::Dyn),
        "_+_" => {
            let joins = of[0].is_number() || matches!(of[0], Type::String | Type::Bytes | Type::List(_));
            (joins && together() && of[1] != Type::Null).then(|| of[0].clone())
        }
        "_-_" | "_*_" | "_/_" => (of[0].is_number() && of[0] == of[1]).then(|| of[0].clone()),
        "_%_" => (matches!(of[0], Type::Int | Type::Uint) && of[0] == of[1]).then(|| of[0].clone()),
        _ => Some(Type::Dyn),
    }
}

/// The issues as cel-go tells them, with the line and a mark below the place.
pub(crate) fn told(text: &str, issues: &[Issue]) -> String {
    let one = |issue: &Issue| {
        let before: Vec<char> = text.chars().take(issue.at).collect();
        let line = before.iter().filter(|it| **it == '\n').count();
        let column = before.iter().rev().take_while(|it| **it != '\n').count();
        let shown = text.split('\n').nth(line).unwrap_or_default();
        format!(
            "ERROR: <input>:{}:{}: {}\n | {shown}\n | {}^",
            line + 1,
            column + 1,
            issue.message,
            ".".repeat(column)
        )
    };
    issues.iter().map(one).collect::<Vec<_>>().join("\n")
}
