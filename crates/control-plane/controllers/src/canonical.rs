//! Equality of API objects as upstream's semantic equality has it: absent and empty lists and maps are the same.

use serde::Serialize;
use serde_json::Value;

/// Maps of strings, for which empty means absent. Other empty objects, such as `emptyDir: {}`, mean something.
const MAPS: [&str; 6] = ["labels", "annotations", "nodeSelector", "matchLabels", "limits", "requests"];

/// The object as JSON without nulls, empty lists and empty maps.
pub(crate) fn canonical<T: Serialize>(object: &T) -> Value {
    let mut value = serde_json::to_value(object).expect("API types always serialise");
    prune(&mut value);
    value
}

fn prune(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(prune);
            fields.retain(|name, value| match value {
                Value::Null => false,
                Value::Array(items) => !items.is_empty(),
                Value::Object(inner) => !(inner.is_empty() && MAPS.contains(&name.as_str())),
                _ => true,
            });
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}
