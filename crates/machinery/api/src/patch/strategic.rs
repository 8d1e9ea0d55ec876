//! Strategic merge patch: lists of objects merge by key, and directives say what plain JSON cannot.
//!
//! The directives: `$patch: replace | delete` in an object or list item, `$retainKeys`, `$deleteFromPrimitiveList/x`,
//! `$setElementOrder/x`. Source: the documentation of strategic merge patch and `apimachinery/pkg/util/strategicpatch`;
//! `kubectl apply` of every built-in kind goes through here.

use serde_json::{Map, Value};

use super::{go_format, go_format_map, rejected};
use crate::schema::{Field, Kind, Shape, TypeId};
use crate::status::ApiError;

type Object = Map<String, Value>;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";

/// Why a patch cannot be merged, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MergeError {
    #[error("lists of lists are not supported")]
    ListOfLists,
    #[error("invalid patch format of primitive list")]
    PrimitiveList,
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    #[error("invalid patch format of setElementOrder list")]
    SetOrder,
    /// All that upstream answers with a plain error.
    #[error("{0}")]
    Other(String),
}

impl From<MergeError> for ApiError {
    fn from(error: MergeError) -> Self {
        match error {
            MergeError::PrimitiveList | MergeError::RetainKeys | MergeError::SetOrder => {
                ApiError::bad_request(error.to_string())
            }
            MergeError::ListOfLists => rejected(),
            MergeError::Other(message) => ApiError::new(500, "", message),
        }
    }
}

type Result<T> = std::result::Result<T, MergeError>;

/// Where in the schema the merge is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Node {
    /// An object with known fields.
    Type(TypeId),
    /// Anything else, by Go's name for its kind: it has no fields to merge by.
    Other(&'static str),
}

/// How a field merges.
#[derive(Clone, Copy, Debug)]
struct Meta {
    node: Node,
    merges: bool,
    replaces: bool,
    merge_key: Option<&'static str>,
}

impl Node {
    fn look_up(self, key: &str) -> Result<(&'static Field, Meta)> {
        let ty = match self {
            Node::Type(ty) => ty,
            Node::Other(kind) => {
                return Err(MergeError::Other(format!(
                    "merging an object in json but data type is not struct, instead is: {kind}"
                )));
            }
        };
        let field = ty.field(key).ok_or_else(|| {
            let name = ty.go_name();
            MergeError::Other(format!("unable to find api field in struct {name} for the json field {key:?}"))
        })?;
        let node = match (field.shape, field.kind) {
            (Shape::Map, _) => Node::Other("map"),
            (_, Kind::Object(inner)) => Node::Type(inner),
            (_, Kind::RawExtension | Kind::Json | Kind::FieldsV1) => Node::Other("interface"),
            _ => Node::Other("string"),
        };
        let meta =
            Meta { node, merges: field.merges(), replaces: field.replaces(), merge_key: field.merge_key() };
        Ok((field, meta))
    }

    fn look_up_list(self, key: &str) -> Result<Meta> {
        let (field, meta) = self.look_up(key)?;
        if field.shape == Shape::List || field.kind == Kind::Bytes {
            return Ok(meta);
        }
        let kind = if let Node::Type(_) = self { "struct" } else { "map" };
        Err(MergeError::Other(format!("expected slice or array type, but got: {kind}")))
    }
}

/// Merges a patch into an object.
pub(super) fn merge_map(mut original: Object, mut patch: Object, node: Node) -> Result<Object> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(DIRECTIVE);
                Ok(patch)
            }
            Some("delete") => Ok(Object::new()),
            _ => Err(bad_directive(directive, &patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(&mut original, &mut patch, node)?;
    for (key, value) in patch {
        let (key, deletes) = match strip_prefix(&key, DELETE_FROM_LIST) {
            Some(Some(list)) => (list.to_owned(), true),
            Some(None) => return Err(MergeError::PrimitiveList),
            None => (key, false),
        };
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let (_, meta) = node.look_up(&key)?;
                let merged = if meta.replaces { new } else { merge_map(old, new, meta.node)? };
                Some(Value::Object(merged))
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                let meta = node.look_up_list(&key)?;
                let merged = if meta.merges || deletes { merge_list(old, new, meta, deletes)? } else { new };
                Some(Value::Array(merged))
            }
            // A deletion from a list that is not there changes nothing.
            (old, _) if deletes => old,
            (_, mut new) => {
                discard_nulls(&mut new);
                remove_directives(new)
            }
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

fn bad_directive(directive: &Value, patch: &Object) -> MergeError {
    MergeError::Other(format!(
        "unknown patch type: {} in map: {}",
        go_format(directive),
        go_format_map(patch)
    ))
}

/// `prefix/rest` gives `Some(Some(rest))`; the prefix without a rest `Some(None)`; another key `None`.
fn strip_prefix<'a>(key: &'a str, prefix: &str) -> Option<Option<&'a str>> {
    key.strip_prefix(prefix).map(|rest| rest.strip_prefix('/'))
}

/// `$retainKeys`: all fields of the original that are not listed go. The patch may only have listed ones.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<()> {
    let Some(retained) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(retained) = retained else { return Err(MergeError::RetainKeys) };
    let is_retained = |key: &str| retained.iter().any(|r| r.as_str() == Some(key));
    for (key, value) in &*patch {
        let is_directive = key.starts_with(DELETE_FROM_LIST) || key.starts_with(SET_ORDER);
        if !value.is_null() && !is_directive && !is_retained(key) {
            return Err(MergeError::RetainKeys);
        }
    }
    original.retain(|key, _| is_retained(key));
    Ok(())
}

/// `$setElementOrder/x`: merges list `x` and then puts it in the order given; items only the server has keep their
/// place among the others as far as possible.
fn merge_ordered_lists(original: &mut Object, patch: &mut Object, node: Node) -> Result<()> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let Some(order) = patch.remove(&directive) else { continue };
        let order = list(order)?;
        let Some(Some(key)) = strip_prefix(&directive, SET_ORDER) else { return Err(MergeError::SetOrder) };
        let old = original.get(key).cloned().map(list).transpose()?;
        let new = patch.remove(key).map(list).transpose()?;
        let meta = node.look_up_list(key)?;
        check_order(new.as_deref().unwrap_or_default(), &order, meta.merge_key)?;
        let merged = match (&old, new) {
            (None, None) => continue,
            (Some(old), None) => old.clone(),
            (None, Some(new)) => new.into_iter().filter_map(remove_directives).collect(),
            (Some(old), Some(new)) if meta.merges => merge_list(old.clone(), new, meta, false)?,
            (Some(_), Some(new)) => new,
        };
        let sorted = enforce_order(merged, &order, &order, &old.unwrap_or_default(), meta.merge_key)?;
        original.insert(key.to_owned(), Value::Array(sorted));
    }
    Ok(())
}

fn list(value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(items) => Ok(items),
        other => {
            let found = match other {
                Value::Object(_) => "map[string]interface {}",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                Value::Number(_) => "float64",
                _ => "%!s(<nil>)",
            };
            Err(MergeError::Other(format!("expected a []interface {{}}, but received a {found}")))
        }
    }
}

/// What tells a list's item apart: the value of the merge key, or the item itself.
fn identity<'a>(item: &'a Value, merge_key: Option<&str>) -> Result<&'a Value> {
    let Some(merge_key) = merge_key else { return Ok(item) };
    match item {
        Value::Object(map) => map.get(merge_key).ok_or_else(|| no_merge_key(map, merge_key)),
        other => Err(MergeError::Other(format!(
            "expected a map[string]interface {{}}, but received a {}",
            if other.is_string() { "string" } else { "float64" }
        ))),
    }
}

fn no_merge_key(map: &Object, merge_key: &str) -> MergeError {
    MergeError::Other(format!("map: {} does not contain declared merge key: {merge_key}", go_format_map(map)))
}

fn has_directive(item: &Value) -> bool {
    item.get(DIRECTIVE).is_some()
}

/// The patch's own items must be in the order that it sets.
fn check_order(items: &[Value], order: &[Value], merge_key: Option<&str>) -> Result<()> {
    if order.is_empty() || items.is_empty() {
        return Ok(());
    }
    let mut remaining = order.iter();
    for item in items.iter().filter(|i| !has_directive(i)) {
        let wanted = identity(item, merge_key)?;
        loop {
            let Some(next) = remaining.next() else {
                let (items, order) = (Value::from(items), Value::from(order));
                return Err(MergeError::Other(format!(
                    "The order in patch list:\n{}\n doesn't match {SET_ORDER} list:\n{}\n",
                    go_format(&items),
                    go_format(&order)
                )));
            };
            if identity(next, merge_key)? == wanted {
                break;
            }
        }
    }
    Ok(())
}

/// Merges lists: of objects by key, of scalars as a set; or with `deletes` takes scalars out.
fn merge_list(old: Vec<Value>, new: Vec<Value>, meta: Meta, deletes: bool) -> Result<Vec<Value>> {
    let Some(first) = old.first().or(new.first()) else { return Ok(old) };
    let kind = std::mem::discriminant(first);
    if old.iter().chain(&new).any(Value::is_array) {
        return Err(MergeError::ListOfLists);
    }
    if old.iter().chain(&new).any(|i| std::mem::discriminant(i) != kind) {
        return Err(MergeError::Other("list element types are not identical".to_owned()));
    }
    if !first.is_object() {
        if deletes {
            return Ok(old.into_iter().filter(|i| !new.contains(i)).collect());
        }
        let mut merged: Vec<Value> = Vec::with_capacity(old.len() + new.len());
        for item in old.iter().chain(&new) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return enforce_order(merged, &new, &new, &old, None);
    }
    let Some(merge_key) = meta.merge_key else {
        return Err(MergeError::Other("cannot merge lists without merge key for struct".to_owned()));
    };
    let (old, new) = apply_item_directives(old, new, merge_key)?;
    let mut merged = old.clone();
    for item in &new {
        let wanted = identity(item, Some(merge_key))?;
        let found = merged.iter().position(|m| m.get(merge_key) == Some(wanted));
        match (found, item) {
            (Some(at), Value::Object(item)) => {
                let old = merged[at].as_object().cloned().unwrap_or_default();
                merged[at] = Value::Object(merge_map(old, item.clone(), meta.node)?);
            }
            _ => {
                let mut item = item.clone();
                discard_nulls(&mut item);
                merged.extend(remove_directives(item));
            }
        }
    }
    enforce_order(merged, &new, &new, &old, Some(merge_key))
}

/// Handles `$patch` in list items: deletes by key, or replaces the whole list. The patch is left without them.
fn apply_item_directives(
    mut old: Vec<Value>,
    new: Vec<Value>,
    merge_key: &str,
) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut plain = Vec::with_capacity(new.len());
    let mut replaces = false;
    for item in new {
        let Value::Object(map) = &item else { continue };
        let Some(directive) = map.get(DIRECTIVE) else {
            plain.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                let value = map.get(merge_key).ok_or_else(|| no_merge_key(map, merge_key))?;
                old.retain(|i| i.get(merge_key) != Some(value));
            }
            Some("replace") => replaces = true,
            Some("merge") => {
                return Err(MergeError::Other(
                    "merging lists cannot yet be specified in the patch".to_owned(),
                ));
            }
            _ => return Err(bad_directive(directive, map)),
        }
    }
    Ok(if replaces { (plain, Vec::new()) } else { (old, plain) })
}

/// Orders a merged list: items in `listed` follow `order`; the others keep the server's order, each placed before the
/// first item that followed it on the server.
fn enforce_order(
    merged: Vec<Value>,
    listed: &[Value],
    order: &[Value],
    server_order: &[Value],
    merge_key: Option<&str>,
) -> Result<Vec<Value>> {
    let position = |list: &[Value], item: &Value| -> Option<usize> {
        let wanted = identity(item, merge_key).ok()?;
        list.iter().position(|i| identity(i, merge_key).is_ok_and(|i| i == wanted))
    };
    for item in &merged {
        identity(item, merge_key)?;
    }
    let (mut patched, mut server_only): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| position(listed, item).is_some());
    patched.sort_by_key(|item| position(order, item).unwrap_or(usize::MAX));
    server_only.sort_by_key(|item| position(server_order, item).unwrap_or(usize::MAX));

    let mut result = Vec::with_capacity(patched.len() + server_only.len());
    let (mut left, mut right) = (server_only.into_iter().peekable(), patched.into_iter().peekable());
    loop {
        let take_left = match (left.peek(), right.peek()) {
            (None, None) => return Ok(result),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(l), Some(r)) => {
                matches!((position(server_order, l), position(server_order, r)), (Some(l), Some(r)) if l < r)
            }
        };
        result.extend(if take_left { left.next() } else { right.next() });
    }
}

/// Takes out nulls: in something new there is nothing for them to delete.
fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(discard_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

/// Takes out objects that hold a directive, at any depth, and directives of lists: in something new there is nothing
/// for them to act on.
fn remove_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => None,
        Value::Object(map) => {
            let kept = map.into_iter().filter_map(|(key, value)| Some((key, remove_directives(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(remove_directives).collect())),
        other => Some(other),
    }
}
