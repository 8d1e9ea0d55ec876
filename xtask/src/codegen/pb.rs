//! Reads k8s-pb: the protobuf messages as prost structs, with upstream's markers in their doc comments.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use quote::ToTokens;

use super::{godoc, normal, rust_files};

/// One protobuf message.
#[derive(Debug, Default)]
pub(super) struct Message {
    /// As prost writes it, close to upstream's.
    pub(super) ident: String,
    /// By [`normal`] name.
    pub(super) fields: Vec<MessageField>,
    /// Markers of the type itself, without the plus sign.
    pub(super) markers: Vec<String>,
    /// As OpenAPI says it.
    pub(super) description: String,
}

/// One field of a message.
#[derive(Clone, Debug)]
pub(super) struct MessageField {
    pub(super) name: String,
    pub(super) tag: u32,
    /// The key in [`Messages`] of the message type, if it is one.
    pub(super) message: Option<String>,
    /// Without the plus sign, for example `listType=map`.
    pub(super) markers: Vec<String>,
    /// As OpenAPI says it.
    pub(super) description: String,
    /// As a query parameter: `boolean`, `integer` or `string`.
    pub(super) plain: &'static str,
}

/// Messages by `package.version.` and the [`normal`] name: `core.v1.podspec`.
pub(super) type Messages = HashMap<String, Message>;

pub(super) fn read(directory: &Path) -> Result<Messages> {
    let mut messages = Messages::new();
    for path in rust_files(directory)? {
        let relative = path.strip_prefix(directory)?.parent().context("no parent")?;
        let module: Vec<&str> = relative.iter().filter_map(|c| c.to_str()).collect();
        let text = std::fs::read_to_string(&path)?;
        let file = syn::parse_file(&text).with_context(|| path.display().to_string())?;
        for item in file.items {
            if let syn::Item::Struct(item) = item {
                let key = key(&module, &item.ident.to_string());
                messages.insert(key, message(&module, &item));
            }
        }
    }
    Ok(messages)
}

/// `core.v1.podspec`, `util.intstr.intorstring`: the last two modules and the normal name.
fn key(module: &[&str], name: &str) -> String {
    let package = &module[module.len().saturating_sub(2)..];
    format!("{}.{}", package.join("."), normal(name))
}

fn message(module: &[&str], item: &syn::ItemStruct) -> Message {
    let fields = item
        .fields
        .iter()
        .filter_map(|field| {
            let name = normal(field.ident.as_ref()?.to_string().trim_start_matches("r#"));
            let prost = field.attrs.iter().find(|a| a.path().is_ident("prost"))?;
            let arguments = prost.meta.require_list().ok()?.tokens.to_string();
            let tag = arguments.split("tag = \"").nth(1)?.split('"').next()?.parse().ok()?;
            let message = (arguments.contains("message")).then(|| message_type(module, &field.ty));
            let lines = doc_lines(&field.attrs);
            Some(MessageField {
                name,
                tag,
                message: message.flatten(),
                markers: markers(&lines),
                description: godoc::description(&lines),
                plain: plain(&arguments),
            })
        })
        .collect();
    let lines = doc_lines(&item.attrs);
    Message {
        ident: item.ident.to_string(),
        fields,
        markers: markers(&lines),
        description: godoc::description(&lines),
    }
}

/// The type of a query parameter, from the arguments of a field's `prost` attribute.
fn plain(arguments: &str) -> &'static str {
    match arguments.split([',', ' ']).next() {
        Some("bool") => "boolean",
        Some("int32" | "int64") => "integer",
        _ => "string",
    }
}

/// The innermost named type that is not a wrapper (`Option`, `Vec`, `BTreeMap`, `Box`, `String`).
fn message_type(module: &[&str], ty: &syn::Type) -> Option<String> {
    let syn::Type::Path(path) = ty else { return None };
    let last = path.path.segments.last()?;
    if let syn::PathArguments::AngleBracketed(arguments) = &last.arguments {
        return arguments.args.iter().rev().find_map(|argument| match argument {
            syn::GenericArgument::Type(inner) => message_type(module, inner),
            _ => None,
        });
    }
    let mut target: Vec<String> = module.iter().map(ToString::to_string).collect();
    let segments: Vec<String> =
        path.path.segments.iter().map(|s| s.ident.to_string().trim_start_matches("r#").to_owned()).collect();
    let (name, modules) = segments.split_last()?;
    for segment in modules {
        match segment.as_str() {
            "super" => drop(target.pop()),
            "crate" => target.clear(),
            other => target.push(other.to_owned()),
        }
    }
    let target: Vec<&str> = target.iter().map(String::as_str).collect();
    Some(key(&target, name))
}

fn doc_lines(attributes: &[syn::Attribute]) -> Vec<String> {
    attributes
        .iter()
        .filter(|a| a.path().is_ident("doc"))
        .filter_map(|a| match &a.meta.require_name_value().ok()?.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            other => Some(other.to_token_stream().to_string()),
        })
        .map(|line| line.replace("\\[", "[").replace("\\]", "]"))
        .collect()
}

fn markers(lines: &[String]) -> Vec<String> {
    lines.iter().filter_map(|line| line.trim().strip_prefix('+').map(str::to_owned)).collect()
}
