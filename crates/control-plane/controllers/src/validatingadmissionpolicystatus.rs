//! Says of validating admission policies that they were looked at, and what is wrong with the types in their expressions.
//!
//! Source of behaviour: `pkg/controller/validatingadmissionpolicystatus` and the type checker of the admission plugin, with the
//! messages of cel-go. Looked for: fields that a built-in kind does not have, operators whose operands do not go together, names that
//! nobody declares, and text that is no expression. Not looked for: whether functions exist and what they take, whether conversions can
//! succeed, and anything about custom kinds or about rules with wildcards (these upstream leaves out, too).

mod check;
mod decide;
mod expression;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
