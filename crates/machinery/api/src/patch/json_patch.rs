//! RFC 6902 as upstream's library does it: negative indexes count from the end, and `replace` of a key that is not
//! there adds it.

use serde_json::Value;

/// Why an operation failed. Upstream does not tell clients; it is for tests and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OperationError {
    #[error("missing value")]
    Missing,
    #[error("invalid index referenced")]
    Index,
    #[error("test failed")]
    TestFailed,
    #[error("unexpected kind of operation")]
    Unknown,
    #[error("the patch copies more than the limit")]
    TooMuchCopied,
}

use OperationError::{Index, Missing, TestFailed, TooMuchCopied, Unknown};

/// Bytes that `copy` operations of one patch may add up to: the limit of a request's body.
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

pub(super) fn apply(mut document: Value, operations: &[Value]) -> Result<Value, OperationError> {
    let mut copied = 0;
    for operation in operations {
        let text = |name: &str| operation.get(name).and_then(Value::as_str).ok_or(Missing);
        let value = || operation.get("value").cloned().unwrap_or(Value::Null);
        let path = text("path");
        match operation.get("op").and_then(Value::as_str) {
            Some("add") => add(&mut document, path?, value())?,
            Some("remove") => drop(remove(&mut document, path?)?),
            Some("replace") => replace(&mut document, path?, value())?,
            Some("move") => {
                let moved = remove(&mut document, text("from")?)?;
                add(&mut document, path?, moved)?;
            }
            Some("copy") => {
                let source = get(&document, text("from")?)?.cloned().unwrap_or(Value::Null);
                copied += source.to_string().len();
                if copied > MAX_COPIED_BYTES {
                    return Err(TooMuchCopied);
                }
                add(&mut document, path?, source)?;
            }
            Some("test") => {
                let found = get(&document, path?)?.unwrap_or(&Value::Null);
                if !equal(found, &value()) {
                    return Err(TestFailed);
                }
            }
            _ => return Err(Unknown),
        }
    }
    Ok(document)
}

/// Numbers are equal by value: the tree has integers where the patch may have `1.0`.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

fn unescape(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

/// The steps to the container of a path's target, and the last step.
fn split(path: &str) -> Result<(Vec<String>, String), OperationError> {
    let mut steps: Vec<String> = path.split('/').skip(1).map(unescape).collect();
    let last = steps.pop().ok_or(Missing)?;
    Ok((steps, last))
}

fn container<'a>(document: &'a mut Value, steps: &[String]) -> Result<&'a mut Value, OperationError> {
    let mut at = document;
    for step in steps {
        at = match at {
            Value::Object(map) => map.get_mut(step).ok_or(Missing)?,
            Value::Array(items) => {
                let index = existing(step, items.len()).map_err(|_| Missing)?;
                &mut items[index]
            }
            _ => return Err(Missing),
        };
    }
    if at.is_object() || at.is_array() { Ok(at) } else { Err(Missing) }
}

/// The index of an item that must be there.
fn existing(step: &str, length: usize) -> Result<usize, OperationError> {
    let index: i64 = step.parse().map_err(|_| Index)?;
    let length = i64::try_from(length).map_err(|_| Index)?;
    let index = if index < 0 { index + length } else { index };
    if (0..length).contains(&index) { usize::try_from(index).map_err(|_| Index) } else { Err(Index) }
}

/// The value at a path; `None` for a key that is not there in an object that is.
fn get<'a>(document: &'a Value, path: &str) -> Result<Option<&'a Value>, OperationError> {
    if path.is_empty() {
        return Ok(Some(document));
    }
    let (steps, last) = split(path)?;
    let mut at = document;
    for step in &steps {
        at = match at {
            Value::Object(map) => map.get(step).ok_or(Missing)?,
            Value::Array(items) => &items[existing(step, items.len()).map_err(|_| Missing)?],
            _ => return Err(Missing),
        };
    }
    match at {
        Value::Object(map) => Ok(map.get(&last)),
        Value::Array(items) => Ok(Some(&items[existing(&last, items.len())?])),
        _ => Err(Missing),
    }
}

fn add(document: &mut Value, path: &str, value: Value) -> Result<(), OperationError> {
    let (steps, last) = split(path)?;
    match container(document, &steps)? {
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            // One more than the items: adding at the end is allowed.
            let index = existing(&last, items.len() + 1)?;
            items.insert(index, value);
        }
        Value::Object(map) => drop(map.insert(last, value)),
        _ => return Err(Missing),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &str) -> Result<Value, OperationError> {
    let (steps, last) = split(path)?;
    match container(document, &steps)? {
        Value::Array(items) => {
            let index = existing(&last, items.len())?;
            Ok(items.remove(index))
        }
        Value::Object(map) => map.remove(&last).ok_or(Missing),
        _ => Err(Missing),
    }
}

fn replace(document: &mut Value, path: &str, value: Value) -> Result<(), OperationError> {
    if path.is_empty() {
        *document = value;
        return Ok(());
    }
    let (steps, last) = split(path)?;
    match container(document, &steps)? {
        Value::Array(items) => {
            let index = existing(&last, items.len()).map_err(|_| Missing)?;
            items[index] = value;
        }
        Value::Object(map) => drop(map.insert(last, value)),
        _ => return Err(Missing),
    }
    Ok(())
}
