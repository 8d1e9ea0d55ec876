//! Reads JSON once, straight into a tree, checking it against the schema on the way.
//!
//! The words of every error are those of Go's `encoding/json` and of `sigs.k8s.io/json`, which clients know:
//! syntax errors (`invalid character 'x' after object key`), type errors (`cannot unmarshal string into Go struct
//! field DeploymentSpec.spec.replicas of type int32`), unknown and duplicate fields.
//!
//! The tree is canonical, as if it had been through upstream's structs: nulls are left out; so are empty values that
//! Go would not write; structs that Go always writes are there (`resources: {}`).

mod scan;

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::scalar;
use crate::quantity::Quantity;
use crate::schema::{Field, Kind, Shape, TypeId, go_struct};
use scan::Scanner;
pub(super) use scan::SyntaxError;

/// How deep a tree may be. Stored objects are read again by parsers that stop at 128 (`serde_json`); within the
/// schema only CustomResourceDefinitions come near it. Text that is skipped may be as deep as upstream allows.
pub(crate) const MAX_DEPTH: usize = 120;

/// More strict errors than this are not collected, as upstream.
const MAX_STRICT_ERRORS: usize = 100;

/// What was read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) value: Value,
    /// The first value of a wrong type.
    pub(super) type_error: Option<String>,
    /// Whether that value is the object's own `kind` or `apiVersion`.
    pub(super) meta_error: bool,
    /// Unknown and duplicate fields, in the order found.
    pub(super) strict: Vec<String>,
}

/// Reads an object of a type.
pub(super) fn read(text: &str, ty: TypeId) -> Result<Read, SyntaxError> {
    let mut reader = Reader::new(text);
    let value = match reader.scan.peek()? {
        b'{' => reader.object(ty)?,
        b'n' => {
            reader.scan.skip()?;
            Value::Null
        }
        _ => {
            reader.mismatch(&go_struct(ty))?;
            Value::Null
        }
    };
    reader.scan.end()?;
    Ok(Read { value, type_error: reader.type_error, meta_error: reader.meta_error, strict: reader.strict })
}

/// Reads any JSON value, without a schema.
pub(crate) fn read_any(text: &str) -> Result<Value, String> {
    let mut reader = Reader::new(text);
    let value = reader.any().map_err(|e| e.message(text))?;
    reader.scan.end().map_err(|e| e.message(text))?;
    match reader.type_error {
        Some(error) => Err(error),
        None => Ok(value),
    }
}

/// Reads any JSON value and the duplicate keys in it, as [`Read::strict`] words them.
pub(crate) fn read_any_strict(text: &str) -> Result<(Value, Vec<String>), String> {
    let mut reader = Reader::new(text);
    reader.check_duplicates = true;
    let value = reader.any().map_err(|e| e.message(text))?;
    reader.scan.end().map_err(|e| e.message(text))?;
    match reader.type_error {
        Some(error) => Err(error),
        None => Ok((value, reader.strict)),
    }
}

/// The `apiVersion` and `kind` at the top of an object; empty where absent.
pub(super) fn peek_kind(text: &str) -> Result<(String, String), SyntaxError> {
    let mut scan = Scanner::new(text);
    let (mut api_version, mut kind) = (String::new(), String::new());
    if scan.peek()? == b'{' {
        scan.open(b'{');
        let mut first = true;
        while let Some(key) = scan.key(&mut first)? {
            let is_text = scan.peek()? == b'"';
            match &*key {
                "apiVersion" if is_text => api_version = scan.string()?.into_owned(),
                "kind" if is_text => kind = scan.string()?.into_owned(),
                _ => scan.skip()?,
            }
        }
    } else {
        scan.skip()?;
    }
    scan.end()?;
    Ok((api_version, kind))
}

/// One step of the path to the value being read.
#[derive(Debug)]
enum Step<'a> {
    Field(TypeId, &'static Field),
    Key(Cow<'a, str>),
    Index(usize),
}

#[derive(Debug)]
struct Reader<'a> {
    scan: Scanner<'a>,
    depth: usize,
    path: Vec<Step<'a>>,
    type_error: Option<String>,
    meta_error: bool,
    strict: Vec<String>,
    check_duplicates: bool,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Reader {
            scan: Scanner::new(text),
            depth: 0,
            path: Vec::with_capacity(16),
            type_error: None,
            meta_error: false,
            strict: Vec::new(),
            check_duplicates: false,
        }
    }

    fn enter(&mut self) -> Result<(), SyntaxError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(SyntaxError::TooDeep) } else { Ok(()) }
    }

    /// An object of a type. The next character is known to be an opening brace.
    fn object(&mut self, ty: TypeId) -> Result<Value, SyntaxError> {
        self.object_over(ty, Map::new())
    }

    /// An object whose key was there before: into `object`, which is what was read then, as Go reads into the same struct.
    fn object_over(&mut self, ty: TypeId, mut object: Map<String, Value>) -> Result<Value, SyntaxError> {
        self.enter()?;
        self.scan.open(b'{');
        let fields = ty.fields();
        let (mut read, mut seen): (u128, u128) = (0, 0);
        let again = !object.is_empty();
        let mut first = true;
        while let Some(key) = self.scan.key(&mut first)? {
            let Some(index) = ty.field_index(&key) else {
                self.strict_error("unknown field", &key);
                self.scan.skip()?;
                continue;
            };
            let field = &fields[index];
            // No type has 128 fields; a test of the table says so.
            let bit = 1 << index;
            let twice = read & bit != 0;
            if twice {
                self.strict_error("duplicate field", &key);
            }
            read |= bit;
            let before = if twice || again { object.remove(field.name) } else { None };
            self.path.push(Step::Field(ty, field));
            let value = match before {
                None => self.field(field)?,
                Some(before) => self.field_over(field, before)?,
            };
            self.path.pop();
            if is_written(field, &value) {
                seen |= bit;
                object.insert(field.name.to_owned(), value);
            } else {
                seen &= !bit;
            }
        }
        if again {
            for (index, field) in fields.iter().enumerate() {
                seen |= u128::from(object.contains_key(field.name)) << index;
            }
        }
        fill(ty, seen, &mut object);
        self.depth -= 1;
        Ok(Value::Object(object))
    }

    fn field(&mut self, field: &'static Field) -> Result<Value, SyntaxError> {
        match (field.shape, self.scan.peek()?) {
            (_, b'n') => {
                self.scan.skip()?;
                Ok(Value::Null)
            }
            (Shape::One, _) => self.value(field, field.kind),
            (Shape::List, b'[') => self.list(field),
            (Shape::Map, b'{') => self.map(field),
            _ => self.mismatch(&field.go_type()),
        }
    }

    /// A field whose key was there before, with what was read then: structs and maps are added to, lists item by item. A
    /// null clears what can be nil and changes nothing else.
    fn field_over(&mut self, field: &'static Field, before: Value) -> Result<Value, SyntaxError> {
        match (field.shape, field.kind, self.scan.peek()?, before) {
            (Shape::One, kind, b'n', before)
                if !field.is_pointer() && !matches!(kind, Kind::Bytes | Kind::Time | Kind::MicroTime) =>
            {
                self.scan.skip()?;
                Ok(before)
            }
            (Shape::One, Kind::Object(ty), b'{', Value::Object(before)) => self.object_over(ty, before),
            (Shape::List, _, b'[', Value::Array(before)) => self.list_over(field, before),
            (Shape::Map, _, b'{', Value::Object(before)) => self.map_over(field, before),
            _ => self.field(field),
        }
    }

    fn list(&mut self, field: &'static Field) -> Result<Value, SyntaxError> {
        self.list_over(field, Vec::new())
    }

    fn list_over(&mut self, field: &'static Field, before: Vec<Value>) -> Result<Value, SyntaxError> {
        self.enter()?;
        self.scan.open(b'[');
        let mut items = Vec::new();
        let mut before = before.into_iter();
        while self.scan.item(items.is_empty())? {
            self.path.push(Step::Index(items.len()));
            let item = match (field.kind, before.next()) {
                (Kind::Object(ty), Some(Value::Object(before))) if self.scan.peek()? == b'{' => {
                    self.object_over(ty, before)?
                }
                _ => self.item(field)?,
            };
            items.push(item);
            self.path.pop();
        }
        self.depth -= 1;
        Ok(Value::Array(items))
    }

    fn map(&mut self, field: &'static Field) -> Result<Value, SyntaxError> {
        self.map_over(field, Map::new())
    }

    fn map_over(&mut self, field: &'static Field, before: Map<String, Value>) -> Result<Value, SyntaxError> {
        self.enter()?;
        self.scan.open(b'{');
        let mut object = Map::new();
        let mut first = true;
        while let Some(key) = self.scan.key(&mut first)? {
            if object.contains_key(&*key) {
                self.strict_error("duplicate field", &key);
            }
            self.path.push(Step::Key(key.clone()));
            let value = self.item(field)?;
            self.path.pop();
            object.insert(key.into_owned(), value);
        }
        for (key, value) in before {
            object.entry(key).or_insert(value);
        }
        self.depth -= 1;
        Ok(Value::Object(object))
    }

    /// An item of a list or map: a null is the zero value there.
    fn item(&mut self, field: &'static Field) -> Result<Value, SyntaxError> {
        if self.scan.peek()? == b'n' {
            self.scan.skip()?;
            return Ok(zero(field.kind));
        }
        self.value(field, field.kind)
    }

    /// One value that is not null.
    fn value(&mut self, field: &'static Field, kind: Kind) -> Result<Value, SyntaxError> {
        let next = self.scan.peek()?;
        match (kind, next) {
            (Kind::String, b'"') => Ok(Value::String(self.scan.string()?.into_owned())),
            (Kind::Object(ty), b'{') => self.object(ty),
            (Kind::Bool, b't' | b'f') => self.scan.boolean().map(Value::Bool),
            (Kind::Int32, b'-' | b'0'..=b'9') => {
                self.integer(i64::from(i32::MIN), i64::from(i32::MAX), || field.item_go_type())
            }
            (Kind::Int64, b'-' | b'0'..=b'9') => self.integer(i64::MIN, i64::MAX, || field.item_go_type()),
            (Kind::Double, b'-' | b'0'..=b'9') => {
                let text = self.scan.number()?;
                Ok(self.number(text, true))
            }
            (Kind::Bytes, b'"') => {
                let text = self.scan.string()?;
                Ok(self.checked(scalar::base64(&text)))
            }
            (Kind::Time, b'"') => {
                let text = self.scan.string()?;
                Ok(self.checked(scalar::time(&text)))
            }
            (Kind::MicroTime, b'"') => {
                let text = self.scan.string()?;
                Ok(self.checked(scalar::micro_time(&text)))
            }
            (Kind::Quantity, _) => self.quantity(next),
            (Kind::IntOrString, b'"') => Ok(Value::String(self.scan.string()?.into_owned())),
            (Kind::IntOrString, b'-' | b'0'..=b'9') => {
                self.integer(i64::from(i32::MIN), i64::from(i32::MAX), || "int32".to_owned())
            }
            (Kind::IntOrString, _) => self.mismatch("int32"),
            (Kind::RawExtension | Kind::Json | Kind::FieldsV1, _) => self.any(),
            (Kind::Strings | Kind::SchemaOrStrings, b'[') => self.strings(field),
            (Kind::SchemaOrArray, b'[') => self.schemas(field),
            (Kind::SchemaOrBool, b't' | b'f') => self.scan.boolean().map(Value::Bool),
            (Kind::SchemaOrArray | Kind::SchemaOrBool | Kind::SchemaOrStrings, b'{') => {
                match schema_props() {
                    Some(ty) => self.object(ty),
                    None => self.any(),
                }
            }
            _ => self.mismatch(&field.item_go_type()),
        }
    }

    fn strings(&mut self, field: &'static Field) -> Result<Value, SyntaxError> {
        self.enter()?;
        self.scan.open(b'[');
        let mut items = Vec::new();
        while self.scan.item(items.is_empty())? {
            self.path.push(Step::Index(items.len()));
            let item = if self.scan.peek()? == b'"' {
                Value::String(self.scan.string()?.into_owned())
            } else {
                self.mismatch(&field.item_go_type())?;
                Value::String(String::new())
            };
            items.push(item);
            self.path.pop();
        }
        self.depth -= 1;
        Ok(Value::Array(items))
    }

    fn schemas(&mut self, field: &'static Field) -> Result<Value, SyntaxError> {
        self.enter()?;
        self.scan.open(b'[');
        let mut items = Vec::new();
        while self.scan.item(items.is_empty())? {
            let item = match (self.scan.peek()?, schema_props()) {
                (b'{', Some(ty)) => self.object(ty)?,
                _ => self.mismatch(&field.item_go_type())?,
            };
            items.push(item);
        }
        self.depth -= 1;
        Ok(Value::Array(items))
    }

    fn integer(&mut self, min: i64, max: i64, go_type: impl Fn() -> String) -> Result<Value, SyntaxError> {
        let text = self.scan.number()?;
        match text.parse::<i64>() {
            Ok(value) if (min..=max).contains(&value) => Ok(Value::from(value)),
            _ => {
                self.type_error(&format!("number {text}"), &go_type());
                Ok(Value::Null)
            }
        }
    }

    /// A number without a type of its own: an integer where it is written as one and fits.
    fn number(&mut self, text: &str, float: bool) -> Value {
        if let Ok(value) = text.parse::<i64>() {
            return Value::from(value);
        }
        match text.parse::<f64>() {
            // Go prints whole floats without a fraction.
            #[allow(
                clippy::cast_possible_truncation,
                reason = "checked to be whole and far inside the range"
            )]
            Ok(value) if float && value.fract() == 0.0 && value.abs() < 1e15 => Value::from(value as i64),
            Ok(value) if value.is_finite() => Value::from(value),
            _ => {
                self.type_error(&format!("number {text}"), "float64");
                Value::Null
            }
        }
    }

    fn quantity(&mut self, next: u8) -> Result<Value, SyntaxError> {
        let parsed = match next {
            b'"' => self.scan.string()?.trim().parse::<Quantity>(),
            b'-' | b'0'..=b'9' => self.scan.number()?.parse::<Quantity>(),
            _ => {
                self.scan.skip()?;
                "?".parse::<Quantity>()
            }
        };
        Ok(self.checked(parsed.map(|q| q.to_string()).map_err(|e| e.to_string())))
    }

    /// A text that had to be of some form.
    fn checked(&mut self, text: Result<String, String>) -> Value {
        match text {
            Ok(text) => Value::String(text),
            Err(error) => {
                self.type_error.get_or_insert(error);
                Value::Null
            }
        }
    }

    fn any(&mut self) -> Result<Value, SyntaxError> {
        match self.scan.peek()? {
            b'{' => {
                self.enter()?;
                self.scan.open(b'{');
                let mut object = Map::new();
                let mut first = true;
                while let Some(key) = self.scan.key(&mut first)? {
                    if self.check_duplicates {
                        if object.contains_key(&*key) {
                            self.strict_error("duplicate field", &key);
                        }
                        self.path.push(Step::Key(key.clone()));
                    }
                    let value = self.any()?;
                    if self.check_duplicates {
                        self.path.pop();
                    }
                    object.insert(key.into_owned(), value);
                }
                self.depth -= 1;
                Ok(Value::Object(object))
            }
            b'[' => {
                self.enter()?;
                self.scan.open(b'[');
                let mut items = Vec::new();
                while self.scan.item(items.is_empty())? {
                    if self.check_duplicates {
                        self.path.push(Step::Index(items.len()));
                    }
                    items.push(self.any()?);
                    if self.check_duplicates {
                        self.path.pop();
                    }
                }
                self.depth -= 1;
                Ok(Value::Array(items))
            }
            b'"' => Ok(Value::String(self.scan.string()?.into_owned())),
            b't' | b'f' => self.scan.boolean().map(Value::Bool),
            b'-' | b'0'..=b'9' => {
                let text = self.scan.number()?;
                Ok(self.number(text, false))
            }
            _ => {
                self.scan.skip()?;
                Ok(Value::Null)
            }
        }
    }

    /// Notes that the next value does not fit, and skips it.
    fn mismatch(&mut self, go_type: &str) -> Result<Value, SyntaxError> {
        let value = match self.scan.peek()? {
            b'{' => "object",
            b'[' => "array",
            b'"' => "string",
            b't' | b'f' => "bool",
            b'n' => "null",
            _ => "number",
        };
        self.type_error(value, go_type);
        self.scan.skip()?;
        Ok(Value::Null)
    }

    fn type_error(&mut self, value: &str, go_type: &str) {
        if self.type_error.is_some() {
            return;
        }
        let mut names: Vec<&str> = Vec::new();
        let mut holder = None;
        for step in &self.path {
            if let Step::Field(ty, field) = step {
                holder = Some(*ty);
                if field.tags[0] == 0 && ty.gvk().is_some() {
                    names.push("TypeMeta");
                }
                for embed in &ty.get().embeds {
                    let depth = embed.0.iter().take_while(|t| **t != 0).count();
                    if embed.0[..depth] == field.tags[..depth]
                        && field.tags.get(depth).is_some_and(|t| *t != 0)
                    {
                        names.push(embed.1);
                    }
                }
                names.push(field.name);
            }
        }
        self.meta_error = self.path.len() == 1 && matches!(names.last(), Some(&("kind" | "apiVersion")));
        self.type_error = Some(match holder {
            Some(_) if self.meta_error => {
                format!(
                    "json: cannot unmarshal {value} into Go struct field .{} of type {go_type}",
                    names[names.len() - 1]
                )
            }
            Some(ty) => format!(
                "json: cannot unmarshal {value} into Go struct field {}.{} of type {go_type}",
                ty.go_name(),
                names.join(".")
            ),
            None => format!("json: cannot unmarshal {value} into Go value of type {go_type}"),
        });
    }

    fn strict_error(&mut self, what: &str, key: &str) {
        if self.strict.len() >= MAX_STRICT_ERRORS {
            return;
        }
        let mut path = String::new();
        for step in &self.path {
            let name = match step {
                Step::Field(_, field) => field.name,
                Step::Key(key) => key,
                Step::Index(index) => {
                    path.push_str(&format!("[{index}]"));
                    continue;
                }
            };
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(name);
        }
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
        let error = format!("{what} {path:?}");
        if !self.strict.contains(&error) {
            self.strict.push(error);
        }
    }
}

/// The type of `JSONSchemaProps`, which some kinds hold without naming it in the table.
pub(super) fn schema_props() -> Option<TypeId> {
    crate::schema::by_name("apiextensions.v1.JSONSchemaProps")
}

/// Whether a value read for a field is kept: not if null, nor if Go would leave it out for being empty.
pub(super) fn is_written(field: &Field, value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Object(map) if field.shape == Shape::One => {
            !(field.omits_zero() && map.is_empty() && !field.is_pointer())
        }
        Value::Object(map) => !(map.is_empty() && field.omits_empty()),
        // An empty list of managers says to forget them; the tracking of managers takes it out.
        Value::Array(_) if field.name == "managedFields" => true,
        // In protobuf, as upstream stores everything, an empty list is none: it comes back as null where it is always written.
        Value::Array(items) if field.shape == Shape::List => !items.is_empty() || field.tells_empty(),
        _ if field.is_pointer() || !field.omits_empty() || field.kind == Kind::IntOrString => true,
        Value::String(text) => !text.is_empty(),
        Value::Bool(set) => *set,
        Value::Number(number) => number.as_i64() != Some(0),
        Value::Array(_) => true,
    }
}

/// Adds what Go always writes and was not seen: structs, and zeros of fields that are not left out when empty. `seen` has
/// one bit per field index.
pub(super) fn fill(ty: TypeId, seen: u128, object: &mut Map<String, Value>) {
    for index in &ty.get().always_written {
        let field = &ty.fields()[usize::from(*index)];
        if seen & (1 << index) == 0 {
            let value = if field.shape == Shape::One { zero(field.kind) } else { Value::Null };
            object.insert(field.name.to_owned(), value);
        }
    }
}

/// What a null is as an item of a list or map, and an absent value that is always written.
pub(super) fn zero(kind: Kind) -> Value {
    match kind {
        Kind::Bool => Value::Bool(false),
        Kind::Int32 | Kind::Int64 | Kind::Double | Kind::IntOrString => Value::from(0),
        Kind::String | Kind::Bytes => Value::String(String::new()),
        Kind::Quantity => Value::String("0".to_owned()),
        Kind::Object(ty) => {
            let mut object = Map::new();
            fill(ty, 0, &mut object);
            Value::Object(object)
        }
        Kind::Strings => Value::Array(Vec::new()),
        _ => Value::Null,
    }
}
