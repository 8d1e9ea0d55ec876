//! YAML bodies become JSON text, which is then read like any other; and objects are written as YAML.

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The first document as a JSON tree, and the duplicate keys that were in it.
///
/// Nesting and the expansion of aliases are bounded by the parser.
pub(crate) fn to_json(body: &[u8]) -> Result<(Value, Vec<String>), String> {
    let mut duplicates = Vec::new();
    let Some(document) = serde_norway::Deserializer::from_slice(body).next() else {
        return Ok((Value::Null, duplicates));
    };
    let value = Seed(&mut duplicates).deserialize(document).map_err(|e| format!("yaml: {e}"))?;
    Ok((value, duplicates))
}

/// Any YAML value (also for texts that turn out to be JSON), ignoring duplicates.
pub(crate) fn write(object: &Value) -> String {
    serde_norway::to_string(object).unwrap_or_default()
}

struct Seed<'s>(&'s mut Vec<String>);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a JSON number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(Seed(self.0))? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = access.next_key::<Key>()? {
            let value = access.next_value_seed(Seed(self.0))?;
            if object.contains_key(&key.0) {
                self.0.push(format!("key {:?} already set in map", key.0));
            }
            object.insert(key.0, value);
        }
        Ok(Value::Object(object))
    }

    fn visit_enum<A: serde::de::EnumAccess<'de>>(self, _access: A) -> Result<Value, A::Error> {
        Err(A::Error::custom("tags are not supported"))
    }
}

/// A key: scalars of other types become their text, as upstream's converter does.
struct Key(String);

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_norway::Value::deserialize(deserializer)? {
            serde_norway::Value::String(text) => Ok(Key(text)),
            serde_norway::Value::Bool(value) => Ok(Key(value.to_string())),
            serde_norway::Value::Number(number) => Ok(Key(number.to_string())),
            serde_norway::Value::Null => Ok(Key("null".to_owned())),
            _ => Err(D::Error::custom("a map or list cannot be a key")),
        }
    }
}
