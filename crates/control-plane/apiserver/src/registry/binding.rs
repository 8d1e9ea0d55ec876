//! `pods/binding`: gives an unscheduled pod its node, once.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use podium_api::field::{Errors, Path};
use podium_api::kinds::Part;
use podium_api::status::ApiError;

use super::{Call, Change};
use crate::admission::{Operation, Request};
use crate::options::WriteOptions;
use crate::response::{self, Reply};
use crate::{clock, options};

impl Call {
    pub(super) async fn bind(&self, body: &[u8]) -> Result<Reply, ApiError> {
        let write = options::write(&self.query, "CreateOptions")?;
        let mut binding = self.decode(body, "", "v1", "Binding", write.validation)?;
        self.check_namespace(&mut binding["metadata"])?;
        let name = binding["metadata"]["name"].as_str().unwrap_or(&self.info.name);
        if !name.is_empty() && name != self.info.name {
            return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
        }
        let binding = self.admit_binding(binding, &write)?;
        self.assign(&binding, &write).await
    }

    /// The old way to bind: a Binding posted to its own collection, naming the pod in its body.
    pub(super) async fn bind_by_body(&self, body: &[u8]) -> Result<Reply, ApiError> {
        let write = options::write(&self.query, "CreateOptions")?;
        let mut binding = self.decode(body, "", "v1", "Binding", write.validation)?;
        self.check_namespace(&mut binding["metadata"])?;
        // Asked for once, by this resource's name.
        let binding = self.admit_binding(binding, &write)?;
        let name = binding["metadata"]["name"].as_str().unwrap_or_default();
        let pods = self.core.catalogue.stored("", "pods").ok_or_else(response::unknown_path)?;
        let mut info = self.info.clone();
        pods.plural.clone_into(&mut info.resource);
        "binding".clone_into(&mut info.subresource);
        name.clone_into(&mut info.name);
        let call = Call {
            core: Arc::clone(&self.core),
            served: pods,
            info,
            query: self.query.clone(),
            user: Arc::clone(&self.user),
            output: self.output,
            refusal: self.refusal,
            content_type: self.content_type.clone(),
            manager: self.manager.clone(),
            warnings: parking_lot::Mutex::default(),
            seats: parking_lot::Mutex::default(),
        };
        call.assign(&binding, &write).await
    }

    /// The binding as admission leaves it, if it may be and names a node.
    fn admit_binding(&self, mut binding: Value, write: &WriteOptions) -> Result<Value, ApiError> {
        self.core.admission.mutate(&mut self.binding_request(&mut binding, write))?;
        check_target(&binding)?;
        self.core.admission.validate(&mut self.binding_request(&mut binding, write))?;
        Ok(binding)
    }

    fn binding_request<'a>(&'a self, binding: &'a mut Value, write: &'a WriteOptions) -> Request<'a> {
        self.admission(Operation::Create, "Binding", binding, None, &write.object, write.dry_run)
    }

    /// Gives the pod of this call its node.
    async fn assign(&self, binding: &Value, write: &WriteOptions) -> Result<Reply, ApiError> {
        let change =
            Change { part: Part::Other("binding"), write, body: None, internal: true, tracked: true };
        let now = clock::now();
        self.change(&change, |old| {
            bound(old, binding, &now)
                .map_err(|why| ApiError::conflict("", "pods/binding", &self.info.name, &why))
        })
        .await?;
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
        });
        Ok(self.reply_other(StatusCode::CREATED, &status))
    }
}

fn check_target(binding: &Value) -> Result<(), ApiError> {
    let mut errors = Errors::new();
    let target = Path::new("target");
    let kind = binding["target"]["kind"].as_str().unwrap_or_default();
    if !kind.is_empty() && kind != "Node" {
        errors.not_supported(&target.child("kind"), kind, &["Node", "<empty>"]);
    }
    if binding["target"]["name"].as_str().is_none_or(str::is_empty) {
        errors.required(&target.child("name"), "");
    }
    if errors.is_empty() {
        return Ok(());
    }
    let name = binding["metadata"]["name"].as_str().unwrap_or_default();
    Err(ApiError::invalid("", "Binding", name, &errors))
}

/// The pod with its node, or why it may not get one.
fn bound(old: &Value, binding: &Value, now: &str) -> Result<Value, String> {
    let name = old["metadata"]["name"].as_str().unwrap_or_default();
    if old["metadata"]["deletionTimestamp"].is_string() {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(node) = old["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
        return Err(format!("pod {name} is already assigned to node {node:?}"));
    }
    if old["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut new = old.clone();
    new["spec"]["nodeName"] = binding["target"]["name"].clone();
    if let Some(status) = new["status"].as_object_mut() {
        status.remove("nominatedNodeName");
    }
    for kind in ["annotations", "labels"] {
        for (key, value) in binding["metadata"][kind].as_object().into_iter().flatten() {
            new["metadata"][kind][key] = value.clone();
        }
    }
    // A binding's uid and version say which pod is meant.
    for precondition in ["uid", "resourceVersion"] {
        let given = binding["metadata"][precondition].as_str().unwrap_or_default();
        new["metadata"][precondition] = json!(given);
    }
    set_condition(&mut new, json!({"type": "PodScheduled", "status": "True"}), now);
    Ok(new)
}

/// Sets a pod condition; its transition time moves only with its status.
pub(super) fn set_condition(pod: &mut Value, mut condition: Value, now: &str) {
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = pod["status"]["conditions"].as_array_mut() else { return };
    let kind = condition["type"].clone();
    match conditions.iter_mut().find(|existing| existing["type"] == kind) {
        Some(existing) => {
            let same = existing["status"] == condition["status"];
            condition["lastTransitionTime"] =
                if same { existing["lastTransitionTime"].clone() } else { json!(now) };
            *existing = condition;
        }
        None => {
            condition["lastTransitionTime"] = json!(now);
            conditions.push(condition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_bound_once() {
        let pod = json!({"metadata": {"name": "a", "uid": "u"}, "spec": {}, "status": {"phase": "Pending"}});
        let binding = json!({"target": {"name": "n1"}, "metadata": {"annotations": {"k": "v"}}});
        let new = bound(&pod, &binding, "2026-01-01T00:00:00Z").unwrap();
        assert_eq!(new["spec"]["nodeName"], "n1");
        assert_eq!(new["metadata"]["annotations"]["k"], "v");
        assert_eq!(new["status"]["conditions"][0]["type"], "PodScheduled");
        assert_eq!(new["status"]["conditions"][0]["status"], "True");
        let error = bound(&new, &binding, "x").unwrap_err();
        assert_eq!(error, "pod a is already assigned to node \"n1\"");
    }

    #[test]
    fn a_deleted_or_gated_pod_is_not_bound() {
        let binding = json!({"target": {"name": "n1"}, "metadata": {}});
        for pod in [
            json!({"metadata": {"name": "a", "deletionTimestamp": "t"}, "spec": {}}),
            json!({"metadata": {"name": "a"}, "spec": {"schedulingGates": [{"name": "g"}]}}),
        ] {
            assert!(bound(&pod, &binding, "x").is_err());
        }
    }
}
