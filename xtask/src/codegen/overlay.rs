//! Reads `overlay.txt`: facts that the source crates lack. The file's header explains its lines.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail};

use super::normal;
use super::pb::{MessageField, Messages};

/// The overlay, parsed.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    fields: Vec<(String, MessageField)>,
    /// Values of named constants, as JSON.
    pub(super) constants: HashMap<String, String>,
    /// Whole types in the table's own format, by name.
    pub(super) types: BTreeMap<String, Vec<String>>,
    /// Whether a field is required, where k8s-openapi is wrong about it.
    pub(super) required: HashMap<(String, String), bool>,
    /// Flags and Go type by type and field.
    pub(super) go: HashMap<(String, String), (String, String)>,
    /// The group versions that upstream registers.
    pub(super) scheme: String,
    /// Types whose fields are query parameters, with the names of those.
    pub(super) options: BTreeMap<String, Vec<String>>,
    /// The values of fields (`core.v1.PodSpec.dnsPolicy`) that have only so many, as the generated file writes them.
    pub(super) enums: BTreeMap<String, String>,
    /// Unions that k8s-pb does not know yet, with their discriminator.
    pub(super) unions: BTreeMap<String, String>,
    /// Descriptions by type and field, where k8s-pb has none yet.
    descriptions: HashMap<(String, String), String>,
}

pub(super) fn parse(text: &str) -> Result<Overlay> {
    let mut overlay = Overlay::default();
    let mut open_type: Option<String> = None;
    for line in text.lines() {
        if let (Some(name), true) = (&open_type, line.starts_with(' ')) {
            overlay.types.entry(name.clone()).or_default().push(line.to_owned());
            continue;
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["pb", ty, field, tag, markers @ ..] => {
                let field = MessageField {
                    name: normal(field),
                    tag: tag.parse().with_context(|| line.to_owned())?,
                    message: None,
                    markers: markers.iter().map(ToString::to_string).collect(),
                    description: String::new(),
                    plain: "string",
                };
                overlay.fields.push((message_key(ty), field));
            }
            ["const", name, value] => {
                overlay.constants.insert((*name).to_owned(), (*value).to_owned());
            }
            [word @ ("optional" | "required"), ty, field] => {
                overlay.required.insert(((*ty).to_owned(), (*field).to_owned()), *word == "required");
            }
            ["table", name, rest @ ..] => {
                open_type = Some((*name).to_owned());
                let head = [&[*name], rest].concat().join(" ");
                overlay.types.insert((*name).to_owned(), vec![head]);
            }
            ["scheme", versions @ ..] => overlay.scheme = versions.join(" "),
            ["options", ty, names @ ..] => {
                overlay.options.insert((*ty).to_owned(), names.iter().map(ToString::to_string).collect());
            }
            ["enum", values, fields @ ..] => {
                overlay.enums.extend(fields.iter().map(|f| ((*f).to_owned(), (*values).to_owned())));
            }
            ["union", ty, discriminator @ ..] => {
                overlay.unions.insert((*ty).to_owned(), discriminator.join(" "));
            }
            ["describe", ty, field, words @ ..] => {
                overlay.descriptions.insert((message_key(ty), normal(field)), words.join(" "));
            }
            ["go", ty, fields @ ..] => {
                for field in fields {
                    let (name, value) = field.split_once('=').with_context(|| line.to_owned())?;
                    let (flags, go_type) = value.split_once(':').unwrap_or((value, ""));
                    let key = ((*ty).to_owned(), name.to_owned());
                    overlay.go.insert(key, (flags.to_owned(), go_type.to_owned()));
                }
            }
            _ => bail!("overlay line not understood: {line}"),
        }
    }
    Ok(overlay)
}

/// `core.v1.PodSpec` as a key of [`Messages`].
pub(super) fn message_key(ty: &str) -> String {
    match ty.rsplit_once('.') {
        Some((package, name)) => format!("{package}.{}", normal(name)),
        None => normal(ty),
    }
}

impl Overlay {
    /// Adds the missing protobuf fields.
    pub(super) fn add_fields(&self, messages: &mut Messages) {
        for (key, field) in &self.fields {
            let mut field = field.clone();
            let described = self.descriptions.get(&(key.clone(), field.name.clone()));
            field.description = described.cloned().unwrap_or_default();
            messages.entry(key.clone()).or_default().fields.push(field);
        }
    }
}
