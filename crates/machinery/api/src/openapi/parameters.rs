//! Parameters of operations, and the names under which those of v2 are shared.

use std::borrow::Cow;
use std::cmp::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde_json::{Map, Value, json};

/// Where a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Path,
    Query,
}

/// One parameter, but for bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) place: Place,
    /// The JSON type.
    ty: &'static str,
    description: Cow<'static, str>,
}

impl Parameter {
    pub(super) fn query(
        name: &'static str,
        ty: &'static str,
        description: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { name, place: Place::Query, ty, description: description.into() }
    }

    pub(super) fn path(name: &'static str, description: impl Into<Cow<'static, str>>) -> Self {
        Self { name, place: Place::Path, ty: "string", description: description.into() }
    }

    pub(super) fn pretty() -> Self {
        let description = "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent \
             indicates a browser or command-line HTTP tool (curl and wget).";
        Self::query("pretty", "string", description)
    }

    /// The order within a list.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        (self.name, self.place).cmp(&(other.name, other.place))
    }

    pub(super) fn v3(&self) -> Value {
        let mut written = json!({
            "name": self.name,
            "in": self.place(),
            "schema": {"type": self.ty, "uniqueItems": true},
        });
        self.finish(&mut written);
        written
    }

    pub(super) fn v2(&self) -> Value {
        let mut written =
            json!({"name": self.name, "in": self.place(), "type": self.ty, "uniqueItems": true});
        self.finish(&mut written);
        written
    }

    fn place(&self) -> &'static str {
        match self.place {
            Place::Path => "path",
            Place::Query => "query",
        }
    }

    fn finish(&self, written: &mut Value) {
        if !self.description.is_empty() {
            written["description"] = Value::from(&*self.description);
        }
        if self.place == Place::Path {
            written["required"] = Value::Bool(true);
        }
    }
}

/// The parameters of a v2 document that stand in one place of it and are referred to.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// By name.
    written: Map<String, Value>,
    /// The name of each, so that none is hashed for each of its many uses.
    names: Vec<(Parameter, String)>,
}

impl Shared {
    /// A parameter of v2: a reference to it, or itself where it is one that is not shared.
    ///
    /// Source: `collectSharedParameters` of `k8s.io/kube-openapi/pkg/builder`: kubectl of before 1.27 looks for `dryRun` and
    /// `fieldValidation` in the operations themselves; names say their kind.
    pub(super) fn refer(&mut self, parameter: &Parameter) -> Value {
        if matches!(
            (parameter.place, parameter.name),
            (_, "name") | (Place::Query, "fieldValidation" | "dryRun")
        ) {
            return parameter.v2();
        }
        if let Some((_, name)) = self.names.iter().find(|(known, _)| known == parameter) {
            return reference(name);
        }
        let name = self.share(parameter.name, parameter.v2());
        let reference = reference(&name);
        self.names.push((parameter.clone(), name));
        reference
    }

    /// The same for a body. What only one kind takes is not shared.
    pub(super) fn refer_body(&mut self, schema: &Value, required: bool) -> Value {
        let target = schema["$ref"].as_str().unwrap_or_default();
        let shared = target.starts_with("#/definitions/io.k8s.apimachinery");
        let mut body = json!({"name": "body", "in": "body", "schema": schema});
        if required {
            body["required"] = Value::Bool(true);
        }
        if shared { reference(&self.share("body", body)) } else { body }
    }

    fn share(&mut self, name: &str, parameter: Value) -> String {
        let name = format!("{name}-{}", hash(&parameter));
        self.written.entry(name.clone()).or_insert(parameter);
        name
    }

    pub(super) fn into_map(self) -> Map<String, Value> {
        self.written
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/parameters/{name}")})
}

/// What tells shared parameters of one name apart: the first bytes of the FNV-1 hash of a parameter as Go writes it.
fn hash(parameter: &Value) -> String {
    const ORDER: [&str; 7] = ["uniqueItems", "type", "description", "name", "in", "required", "schema"];
    let members = ORDER.iter().filter_map(|key| Some(format!("\"{key}\":{}", parameter.get(key)?)));
    let text = format!("{{{}}}", members.collect::<Vec<_>>().join(","));
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
    URL_SAFE.encode(&hash.to_be_bytes()[..6])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names are those of upstream's published document.
    #[test]
    fn shared_parameters_have_upstreams_names() {
        let mut shared = Shared::default();
        let named = |wanted: &str| json!({"$ref": format!("#/parameters/{wanted}")});
        for _ in 0..2 {
            assert_eq!(shared.refer(&Parameter::pretty()), named("pretty-tJGM1-ng"));
        }
        let path = Parameter::path("path", "path to the resource");
        assert_eq!(shared.refer(&path), named("path-z6Ciiujn"));
        let patch = json!({"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.Patch"});
        assert_eq!(shared.refer_body(&patch, true), named("body-78PwaGsr"));
        let pod = json!({"$ref": "#/definitions/io.k8s.api.core.v1.Pod"});
        assert_eq!(shared.refer_body(&pod, true)["schema"], pod);
        let name = Parameter::path("name", "name of the Pod");
        assert_eq!(shared.refer(&name), name.v2());
        assert_eq!(shared.into_map().len(), 3);
    }
}
