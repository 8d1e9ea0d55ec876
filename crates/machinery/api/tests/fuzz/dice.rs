//! Chance that can be replayed: objects of a type, and damage to them, from a seed.

use podium_api::schema::{Field, Kind, Shape, TypeId};
use serde_json::{Map, Value, json};

/// Deeper objects are not made: schemas contain themselves.
const DEPTH: usize = 7;

/// Text that means something somewhere in the API, and text that means nothing anywhere.
const TEXTS: &[&str] = &[
    "a",
    "b",
    "name",
    "nginx",
    "example.com/x",
    "10%",
    "0",
    "-1",
    "80",
    "http",
    "TCP",
    "UDP",
    "Always",
    "Never",
    "ClusterIP",
    "None",
    "IPv4",
    "10.0.0.1",
    "10.0.0.0/24",
    "fd00::1",
    "::/0",
    "Exists",
    "In",
    "NoSchedule",
    "true",
    "*",
    "*/5 * * * *",
    "Europe/Paris",
    "v1",
    "apps/v1",
    "Pod",
    "/var/run",
    "../up",
    "kubernetes.io/hostname",
    "\u{e9}\u{1f600}",
    "tab\there",
    "quote\"",
    "line\nbreak",
    "Upper",
    "a.b.c",
    "RollingUpdate",
    "Recreate",
    "Delete",
    "Retain",
    "ReadWriteOnce",
    "Filesystem",
    "Directory",
    "0777",
    "$(X)",
    "self.x > 1",
    "100m",
    "1Gi",
    "#",
    "- x: y",
    "",
];

const QUANTITIES: &[&str] =
    &["0", "1", "100m", "1Gi", "1500M", "1e3", "0.5", "9223372036854775807", "-5", "1Ki", "12E"];

/// A generator of pseudo-random numbers (splitmix64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap_or(0)
    }

    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// An object that fits the type. What a list, a map or a struct would hold nothing of is left out: protobuf does
    /// not tell empty from absent, in upstream as here.
    pub(crate) fn object(&mut self, ty: TypeId) -> Value {
        // Some objects are dense, most are sparse: both find other things.
        let sparse = *self.choose(&[2, 3, 3, 5, 9]);
        self.of_type(ty, 0, sparse)
    }

    fn of_type(&mut self, ty: TypeId, depth: usize, sparse: usize) -> Value {
        let mut object = Map::new();
        for field in ty.fields() {
            // Protobuf does not know the kind of an object inside another, in upstream as here.
            if depth > 0 && ty.gvk().is_some() && ["apiVersion", "kind"].contains(&field.name) {
                continue;
            }
            let wanted = depth == 0 || field.required() || self.one_in(sparse);
            if wanted && let Some(value) = self.field(field, depth, sparse) {
                object.insert(field.name.to_owned(), value);
            }
        }
        Value::Object(object)
    }

    fn field(&mut self, field: &Field, depth: usize, sparse: usize) -> Option<Value> {
        match field.shape {
            Shape::One => self.value(field.kind, depth, sparse),
            Shape::List => {
                let items: Vec<Value> =
                    (0..=self.below(2)).filter_map(|_| self.value(field.kind, depth, sparse)).collect();
                (!items.is_empty()).then_some(Value::Array(items))
            }
            Shape::Map => {
                let mut map = Map::new();
                for _ in 0..=self.below(2) {
                    let key = (*self.choose(TEXTS)).to_owned();
                    map.insert(key, self.value(field.kind, depth, sparse)?);
                }
                Some(Value::Object(map))
            }
        }
    }

    fn value(&mut self, kind: Kind, depth: usize, sparse: usize) -> Option<Value> {
        Some(match kind {
            Kind::String => json!(self.choose(TEXTS)),
            Kind::Bool => json!(self.one_in(2)),
            Kind::Int32 => json!(self.choose(&[0, 1, -1, 2, 80, 30000, 65535, 65536, i32::MAX, i32::MIN])),
            Kind::Int64 => {
                json!(self.choose(&[0, 1, -1, 30, 3600, i64::from(i32::MAX) + 1, i64::MAX, i64::MIN]))
            }
            Kind::Double => json!(self.choose(&[0.5, 1.0, -2.25])),
            Kind::Bytes => json!(self.choose(&["YQ==", "AAEC", "/+8="])),
            Kind::Time => json!(self.choose(&["2026-01-02T03:04:05Z", "1970-01-01T00:00:01Z"])),
            Kind::MicroTime => {
                json!(self.choose(&["2026-01-02T03:04:05.000006Z", "2026-01-02T03:04:05.600000Z"]))
            }
            Kind::Quantity => json!(self.choose(QUANTITIES)),
            Kind::IntOrString => match self.below(2) {
                0 => json!(self.choose(&[0, 1, 80, -1, 65536, i32::MAX])),
                _ => json!(self.choose(TEXTS)),
            },
            Kind::RawExtension => json!({"apiVersion": "example.com/v1", "kind": "Thing", "count": 3}),
            Kind::Json => {
                self.choose(&[json!({"a": [1, "x", null]}), json!("text"), json!(7), json!([true])]).clone()
            }
            Kind::FieldsV1 => json!({"f:spec": {"f:a": {}}}),
            Kind::Strings => json!([self.choose(TEXTS)]),
            Kind::SchemaOrArray | Kind::SchemaOrStrings => json!({"type": "object"}),
            Kind::SchemaOrBool => self.choose(&[json!(true), json!({"type": "string"})]).clone(),
            Kind::Object(_) if depth >= DEPTH => return None,
            Kind::Object(ty) => self.of_type(ty, depth + 1, sparse),
        })
    }

    /// Changes one value somewhere: another type, another value, gone, null, or one of its kind more.
    pub(crate) fn damage(&mut self, value: &mut Value) {
        match value {
            Value::Object(map) if !map.is_empty() && !self.one_in(6) => {
                let index = self.below(map.len());
                let Some(key) = map.keys().nth(index).cloned() else { return };
                match self.below(12) {
                    0 => drop(map.remove(&key)),
                    1 => drop(map.insert(key, Value::Null)),
                    2 => drop(map.insert("surprise".to_owned(), json!({"a": 1}))),
                    _ => self.damage(map.entry(key).or_insert(Value::Null)),
                }
            }
            Value::Array(items) if !items.is_empty() && !self.one_in(6) => {
                let index = self.below(items.len());
                match self.below(8) {
                    0 => drop(items.remove(index)),
                    1 => items.push(items[index].clone()),
                    2 => items[index] = Value::Null,
                    _ => self.damage(&mut items[index]),
                }
            }
            other => {
                *other = self
                    .choose(&[
                        json!(null),
                        json!(""),
                        json!("x"),
                        json!(-1),
                        json!(1.5),
                        json!(true),
                        json!([]),
                        json!({}),
                        json!([null]),
                        json!([{}]),
                        json!({"": ""}),
                        json!(1e300),
                    ])
                    .clone();
            }
        }
    }

    /// Cuts, turns, doubles or overwrites some bytes.
    pub(crate) fn damage_bytes(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            if bytes.is_empty() {
                return;
            }
            let at = self.below(bytes.len());
            match self.below(5) {
                0 => bytes.truncate(at),
                1 => bytes[at] ^= 1 << self.below(8),
                2 => bytes[at] = *self.choose(&[0, 0xff, 0x80, 0x7f, b'"', b'{', b'\n']),
                3 => {
                    let end = (at + self.below(16)).min(bytes.len());
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
                _ => {
                    let end = (at + self.below(8)).min(bytes.len());
                    bytes.drain(at..end);
                }
            }
        }
    }

    /// Puts directives of strategic merge patches into some of the objects and lists.
    pub(crate) fn add_directives(&mut self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (_, item) in map.iter_mut() {
                    self.add_directives(item);
                }
                if self.one_in(5) {
                    let directive = *self.choose(&["replace", "delete", "merge", "nonsense"]);
                    map.insert("$patch".to_owned(), json!(directive));
                }
                if self.one_in(8) {
                    let keys: Vec<String> = map.keys().take(2).cloned().collect();
                    map.insert("$retainKeys".to_owned(), json!(keys));
                }
                if self.one_in(8)
                    && let Some(key) = map.keys().find(|k| !k.starts_with('$')).cloned()
                {
                    let name = *self.choose(&["$deleteFromPrimitiveList", "$setElementOrder"]);
                    map.insert(format!("{name}/{key}"), json!(["a", {"name": "b"}]));
                }
            }
            Value::Array(items) => {
                for item in items.iter_mut() {
                    self.add_directives(item);
                }
                if self.one_in(6) {
                    items.push(json!({"$patch": "replace"}));
                }
            }
            _ => {}
        }
    }

    /// A JSON patch whose paths mostly exist.
    pub(crate) fn operations(&mut self, object: &Value) -> Value {
        let operations: Vec<Value> = (0..=self.below(4))
            .map(|_| {
                let (path, from) = (self.path(object), self.path(object));
                let op = *self.choose(&["add", "remove", "replace", "move", "copy", "test", "nonsense"]);
                json!({"op": op, "path": path, "from": from, "value": {"a": "b"}})
            })
            .collect();
        Value::Array(operations)
    }

    fn path(&mut self, value: &Value) -> String {
        match value {
            Value::Object(map) if !map.is_empty() && !self.one_in(6) => {
                let index = self.below(map.len());
                let Some((key, below)) = map.iter().nth(index) else { return String::new() };
                format!("/{}{}", key.replace('~', "~0").replace('/', "~1"), self.path(below))
            }
            Value::Array(items) if !items.is_empty() && !self.one_in(4) => {
                let index = self.below(items.len());
                format!("/{index}{}", self.path(&items[index]))
            }
            _ => (*self.choose(&["", "/-", "/99", "/x", "/"])).to_owned(),
        }
    }
}

/// Leaves one item in every list.
pub(crate) fn shorten_lists(value: &mut Value) {
    match value {
        Value::Object(map) => map.values_mut().for_each(shorten_lists),
        Value::Array(items) => {
            items.truncate(1);
            items.iter_mut().for_each(shorten_lists);
        }
        _ => {}
    }
}
