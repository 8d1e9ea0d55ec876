//! Paths as v2 and v3 write them: what all operations of a path take stands beside them.

use serde_json::{Map, Value, json};

use super::Flavor;
use super::parameters::{Parameter, Shared};
use super::routes::{Body, Model, Route};
use super::schemas::reference;

/// The items of the paths of v2.
pub(super) fn v2(routes: &[Route], shared: &mut Shared) -> Vec<(String, Value)> {
    Writer { shared: Some(shared) }.items(routes)
}

/// The items of the paths of v3.
pub(super) fn v3(routes: &[Route]) -> Vec<(String, Value)> {
    Writer { shared: None }.items(routes)
}

struct Writer<'a> {
    /// Where v2 keeps the parameters that it refers to; v3 writes them out.
    shared: Option<&'a mut Shared>,
}

impl Writer<'_> {
    fn items(&mut self, routes: &[Route]) -> Vec<(String, Value)> {
        // Operations of a path may be apart: lists of all namespaces stand between those of one.
        let mut paths: Vec<(&str, Vec<&Route>)> = Vec::new();
        for route in routes {
            match paths.iter_mut().rev().find(|(path, _)| *path == route.path) {
                Some((_, found)) => found.push(route),
                None => paths.push((&route.path, vec![route])),
            }
        }
        paths.into_iter().map(|(path, routes)| (path.to_owned(), self.item(&routes))).collect()
    }

    fn flavor(&self) -> Flavor {
        if self.shared.is_some() { Flavor::V2 } else { Flavor::V3 }
    }

    fn item(&mut self, routes: &[&Route]) -> Value {
        let (first, others) =
            routes.split_first().map_or((&[][..], &[][..]), |(f, o)| (&f.parameters[..], o));
        let everywhere = |p: &Parameter| {
            others.iter().all(|r| r.parameters.iter().any(|o| (o.name, o.place) == (p.name, p.place)))
        };
        // The last operation's words are taken where they differ.
        let last = routes.last().map_or(&[][..], |r| &r.parameters[..]);
        let named =
            |p: &Parameter| last.iter().find(|l| (l.name, l.place) == (p.name, p.place)).unwrap_or(p).clone();
        let common: Vec<Parameter> = first.iter().filter(|p| everywhere(p)).map(named).collect();
        let mut item = Map::new();
        for route in routes {
            item.insert(route.method.to_owned(), self.operation(route, &common));
        }
        if !common.is_empty() {
            item.insert("parameters".to_owned(), self.parameters(common, None));
        }
        Value::Object(item)
    }

    /// Parameters in their order, with a body among them where v2 has one.
    fn parameters(&mut self, mut parameters: Vec<Parameter>, body: Option<Body>) -> Value {
        parameters.sort_by(Parameter::order);
        let mut written: Vec<Value> = parameters.iter().map(|p| self.parameter(p)).collect();
        if let (Some(body), Some(shared)) = (body, &mut self.shared) {
            let place = parameters.partition_point(|p| p.name < "body");
            let schema = reference(Flavor::V2, body.ty);
            written.insert(place, shared.refer_body(&schema, body.required));
        }
        Value::Array(written)
    }

    fn parameter(&mut self, parameter: &Parameter) -> Value {
        match &mut self.shared {
            Some(shared) => shared.refer(parameter),
            None => parameter.v3(),
        }
    }

    fn operation(&mut self, route: &Route, common: &[Parameter]) -> Value {
        let flavor = self.flavor();
        let mut written = json!({
            "description": route.description,
            "operationId": route.id,
            "tags": [route.tag],
            "responses": responses(flavor, route),
        });
        if let Some((action, (group, version, kind))) = route.action {
            written["x-kubernetes-action"] = Value::from(action);
            written["x-kubernetes-group-version-kind"] =
                json!({"group": group, "version": version, "kind": kind});
        }
        let own = |p: &&Parameter| !common.iter().any(|c| (c.name, c.place) == (p.name, p.place));
        let own: Vec<Parameter> = route.parameters.iter().filter(own).cloned().collect();
        let body = if flavor == Flavor::V2 { route.body } else { None };
        if !own.is_empty() || body.is_some() {
            written["parameters"] = self.parameters(own, body);
        }
        match (flavor, route.body) {
            (Flavor::V2, _) => {
                written["schemes"] = json!(["https"]);
                for (name, types) in [("consumes", route.consumes), ("produces", route.produces)] {
                    if !types.is_empty() {
                        written[name] = json!(types);
                    }
                }
            }
            (Flavor::V3, Some(body)) => {
                let schema = reference(flavor, body.ty);
                written["requestBody"] = json!({"content": content(route.consumes, &schema)});
                if body.required {
                    written["requestBody"]["required"] = Value::Bool(true);
                }
            }
            (Flavor::V3, None) => {}
        }
        written
    }
}

fn responses(flavor: Flavor, route: &Route) -> Value {
    let schema = match route.model {
        Model::Type(ty) => reference(flavor, ty),
        Model::Text => json!({"type": "string"}),
    };
    let mut responses = json!({"401": {"description": "Unauthorized"}});
    for (status, description) in route.answers {
        responses[*status] = match flavor {
            Flavor::V2 => json!({"description": description, "schema": schema}),
            Flavor::V3 => json!({"description": description, "content": content(route.produces, &schema)}),
        };
    }
    responses
}

fn content(types: &[&str], schema: &Value) -> Value {
    types.iter().map(|ty| ((*ty).to_owned(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
}
