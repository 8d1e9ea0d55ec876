//! Reads k8s-openapi: JSON names, types, required fields and descriptions from its `json_schema!` bodies, and the
//! group, version and kind from its `Resource` implementations.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::rust_files;

/// One definition.
#[derive(Debug, Default)]
pub(super) struct Definition {
    pub(super) description: String,
    /// By JSON name. Empty for types that are not objects with fields.
    pub(super) properties: BTreeMap<String, Property>,
    pub(super) required: Vec<String>,
    /// Group, version, kind.
    pub(super) gvk: Option<(String, String, String)>,
    /// Whether a list kind exists.
    pub(super) listable: bool,
}

/// One property.
#[derive(Debug)]
pub(super) struct Property {
    pub(super) description: String,
    pub(super) ty: Type,
}

/// A JSON type as the definitions say it.
#[derive(Debug)]
pub(super) enum Type {
    /// `type` and `format`.
    Plain(String, String),
    List(Box<Type>),
    Map(Box<Type>),
    /// The short name of the definition: `core.v1.Pod`.
    Ref(String),
}

/// Definitions by short name: `core.v1.Pod`, `meta.v1.ObjectMeta`.
pub(super) type Definitions = BTreeMap<String, Definition>;

pub(super) fn read(directory: &Path) -> Result<Definitions> {
    let mut definitions = Definitions::new();
    for path in rust_files(directory)? {
        let text = std::fs::read_to_string(&path)?;
        let file = syn::parse_file(&text).with_context(|| path.display().to_string())?;
        let (mut name, mut definition) = (None, Definition::default());
        for item in &file.items {
            let syn::Item::Impl(item) = item else { continue };
            let Some((_, of, _)) = &item.trait_ else { continue };
            match of.segments.last().map(|s| s.ident.to_string()).as_deref() {
                Some("Resource") => {
                    let constant = |wanted: &str| string_constant(item, wanted).unwrap_or_default();
                    definition.gvk = Some((constant("GROUP"), constant("VERSION"), constant("KIND")));
                }
                Some("ListableResource") => definition.listable = true,
                Some("JsonSchema") => {
                    name = read_schema(item, &mut definition).with_context(|| path.display().to_string())?;
                }
                _ => {}
            }
        }
        if let Some(name) = name {
            definitions.insert(name, definition);
        }
    }
    Ok(definitions)
}

/// `io.k8s.api.core.v1.Pod` and a Rust path to it both become `core.v1.Pod`.
pub(super) fn short_name(full: &str) -> String {
    let parts: Vec<&str> = full.split('.').collect();
    parts[parts.len().saturating_sub(3)..].join(".")
}

fn string_constant(item: &syn::ItemImpl, wanted: &str) -> Option<String> {
    item.items.iter().find_map(|i| match i {
        syn::ImplItem::Const(c) if c.ident == wanted => match &c.expr {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    })
}

/// Reads `schema_name` and `json_schema`; `None` if the type has no fixed name (generic lists).
fn read_schema(item: &syn::ItemImpl, definition: &mut Definition) -> Result<Option<String>> {
    let mut name = None;
    for function in &item.items {
        let syn::ImplItem::Fn(function) = function else { continue };
        let body = quote::quote!(#function);
        if function.sig.ident == "schema_name" {
            name = first_string(body).filter(|n| n.starts_with("io.k8s.")).map(|n| short_name(&n));
        } else if function.sig.ident == "json_schema" {
            let Some(tokens) = macro_body(body) else { continue };
            let Node::Object(schema) = parse_value(&tokens)? else { continue };
            fill(schema, definition)?;
        }
    }
    Ok(name)
}

fn fill(schema: Vec<(String, Node)>, definition: &mut Definition) -> Result<()> {
    for (key, value) in schema {
        match (key.as_str(), value) {
            ("description", Node::Text(text)) => definition.description = text,
            ("required", Node::Array(items)) => {
                definition.required = items.into_iter().filter_map(Node::text).collect();
            }
            ("properties", Node::Object(properties)) => {
                for (name, node) in properties {
                    let property = property(node).with_context(|| name.clone())?;
                    definition.properties.insert(name, property);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn property(node: Node) -> Result<Property> {
    let description = match &node {
        Node::Ref { description, .. } => description.clone(),
        Node::Object(entries) => entries
            .iter()
            .find(|(k, _)| k == "description")
            .and_then(|(_, v)| v.clone_text())
            .unwrap_or_default(),
        _ => String::new(),
    };
    Ok(Property { description, ty: type_of(node)? })
}

fn type_of(node: Node) -> Result<Type> {
    let entries = match node {
        Node::Ref { name, .. } => return Ok(Type::Ref(name)),
        Node::Object(entries) => entries,
        other => bail!("not a type: {other:?}"),
    };
    let (mut ty, mut format) = (String::new(), String::new());
    for (key, value) in entries {
        match (key.as_str(), value) {
            ("type", Node::Text(text)) => ty = text,
            ("format", Node::Text(text)) => format = text,
            ("items", value) => return Ok(Type::List(Box::new(type_of(value)?))),
            ("additionalProperties", value) => return Ok(Type::Map(Box::new(type_of(value)?))),
            _ => {}
        }
    }
    Ok(Type::Plain(ty, format))
}

/// What a `json_schema!` body is made of.
#[derive(Debug)]
enum Node {
    Object(Vec<(String, Node)>),
    Array(Vec<Node>),
    Text(String),
    Ref { name: String, description: String },
    Other,
}

impl Node {
    fn text(self) -> Option<String> {
        if let Node::Text(text) = self { Some(text) } else { None }
    }

    fn clone_text(&self) -> Option<String> {
        if let Node::Text(text) = self { Some(text.clone()) } else { None }
    }
}

/// The tokens of the first brace group in `json_schema!({ ... })`.
fn macro_body(tokens: TokenStream) -> Option<Vec<TokenTree>> {
    let mut last = String::new();
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => last = ident.to_string(),
            TokenTree::Group(group)
                if last == "json_schema" && group.delimiter() == Delimiter::Parenthesis =>
            {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                if matches!(inner.first(), Some(TokenTree::Group(g)) if g.delimiter() == Delimiter::Brace) {
                    return Some(inner);
                }
            }
            TokenTree::Group(group) => {
                if let Some(found) = macro_body(group.stream()) {
                    return Some(found);
                }
            }
            _ => {}
        }
    }
    None
}

fn first_string(tokens: TokenStream) -> Option<String> {
    tokens.into_iter().find_map(|token| match token {
        TokenTree::Literal(literal) => string(&literal),
        TokenTree::Group(group) => first_string(group.stream()),
        _ => None,
    })
}

fn string(literal: &proc_macro2::Literal) -> Option<String> {
    match syn::parse_str::<syn::Lit>(&literal.to_string()) {
        Ok(syn::Lit::Str(text)) => Some(text.value()),
        _ => None,
    }
}

/// One value: an object, an array, a literal, or an expression that refers to another type.
fn parse_value(tokens: &[TokenTree]) -> Result<Node> {
    match tokens {
        [TokenTree::Literal(literal)] => Ok(string(literal).map_or(Node::Other, Node::Text)),
        [TokenTree::Group(group)] if group.delimiter() == Delimiter::Bracket => {
            let inner: Vec<TokenTree> = group.stream().into_iter().collect();
            Ok(Node::Array(split_commas(&inner).map(parse_value).collect::<Result<_>>()?))
        }
        [TokenTree::Group(group)] if group.delimiter() == Delimiter::Brace && is_object(group) => {
            let inner: Vec<TokenTree> = group.stream().into_iter().collect();
            let mut entries = Vec::new();
            for entry in split_commas(&inner) {
                let [TokenTree::Literal(key), TokenTree::Punct(_), value @ ..] = entry else {
                    bail!("not an entry: {entry:?}");
                };
                entries.push((string(key).context("key is not a string")?, parse_value(value)?));
            }
            Ok(Node::Object(entries))
        }
        expression => {
            let stream: TokenStream = expression.iter().cloned().collect();
            let text = stream.to_string().replace(' ', "");
            let Some(path) = text.split("subschema_for::<").nth(1).and_then(|t| t.split(">(").next()) else {
                return Ok(Node::Other);
            };
            let name = short_name(&path.replace("::", "."));
            Ok(Node::Ref { name, description: inserted_description(stream).unwrap_or_default() })
        }
    }
}

fn is_object(group: &proc_macro2::Group) -> bool {
    let mut tokens = group.stream().into_iter();
    match (tokens.next(), tokens.next()) {
        (None, _) => true,
        (Some(TokenTree::Literal(_)), Some(TokenTree::Punct(p))) => p.as_char() == ':',
        _ => false,
    }
}

fn split_commas(tokens: &[TokenTree]) -> impl Iterator<Item = &[TokenTree]> {
    tokens.split(|t| matches!(t, TokenTree::Punct(p) if p.as_char() == ',')).filter(|entry| !entry.is_empty())
}

/// The second string of `insert("description".into(), "...".into())`.
fn inserted_description(tokens: TokenStream) -> Option<String> {
    let mut strings = Vec::new();
    collect_strings(tokens, &mut strings);
    let mut strings = strings.into_iter();
    strings.find(|s| s == "description")?;
    strings.next()
}

fn collect_strings(tokens: TokenStream, into: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Literal(literal) => into.extend(string(&literal)),
            TokenTree::Group(group) => collect_strings(group.stream(), into),
            _ => {}
        }
    }
}
