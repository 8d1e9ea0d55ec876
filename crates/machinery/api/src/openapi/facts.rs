//! What only these documents need to know: unions, enumerations, query parameters and the versions of upstream's scheme.
//!
//! Read from the generated `generated/openapi.txt` each time that a document is made, and not kept:
//!
//! ```text
//! scheme VERSION GROUP/VERSION...          the versions that upstream registers, served or not
//! union TYPE DISCRIMINATOR                 an object of which one field is set; the discriminator may be empty
//! enum TYPE.FIELD VALUE|VALUE              the only values of a field or of its items; `_` stands for a space
//! options TYPE                             an object that is given as query parameters: the lines below it
//!  NAME JSONTYPE DESCRIPTION
//! ```

use std::borrow::Cow;
use std::collections::HashMap;

use super::parameters::Parameter;
use crate::resources::split_api_version;
use crate::schema::{TypeId, unescape};

pub(super) const TEXT: &str = include_str!("../../generated/openapi.txt");

/// The file, parsed.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Group and version, in upstream's order.
    pub(super) scheme: Vec<(&'static str, &'static str)>,
    unions: HashMap<&'static str, &'static str>,
    enums: HashMap<&'static str, &'static str>,
    options: HashMap<&'static str, Vec<Parameter>>,
}

impl Facts {
    pub(super) fn read() -> Self {
        let mut facts = Self::default();
        let mut options = "";
        for line in TEXT.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let (name, value) = rest.split_once(' ').unwrap_or((rest, ""));
            match word {
                "" => {
                    let (ty, description) = value.split_once(' ').unwrap_or((value, ""));
                    let parameter = Parameter::query(name, ty, described(description));
                    facts.options.entry(options).or_default().push(parameter);
                }
                "scheme" => facts.scheme = rest.split(' ').map(split_api_version).collect(),
                "union" => drop(facts.unions.insert(name, value)),
                "enum" => drop(facts.enums.insert(name, value)),
                "options" => options = name,
                _ => {}
            }
        }
        facts
    }

    /// The discriminator of a union, which may be empty; `None` for what is no union.
    pub(super) fn union(&self, ty: TypeId) -> Option<&'static str> {
        self.unions.get(ty.name()).copied()
    }

    /// The values of a field that has only so many; empty for any other.
    pub(super) fn values(&self, ty: TypeId, field: &str) -> Vec<Cow<'static, str>> {
        let found = self.enums.get(format!("{}.{field}", ty.name()).as_str());
        let values = found.into_iter().flat_map(|values| values.split('|'));
        values.map(|v| if v.contains('_') { v.replace('_', " ").into() } else { v.into() }).collect()
    }

    /// The parameters that a kind of options is given as: `meta.v1.ListOptions`.
    pub(super) fn options(&self, ty: &str) -> &[Parameter] {
        self.options.get(ty).map_or(&[], Vec::as_slice)
    }
}

fn described(text: &'static str) -> Cow<'static, str> {
    if text.contains('\\') { unescape(text).into() } else { text.into() }
}
