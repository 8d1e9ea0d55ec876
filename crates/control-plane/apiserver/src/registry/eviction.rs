//! `pods/eviction`: a delete that a PodDisruptionBudget can hold back.

use std::sync::Arc;

use http::StatusCode;
use podium_store::RangeOptions;
use serde_json::{Value, json};

use podium_api::kinds::Part;
use podium_api::selector::LabelSelector;
use podium_api::status::ApiError;

use super::binding::set_condition;
use super::{Call, Change};
use crate::admission::Operation;
use crate::options::{self, DeleteOptions, WriteOptions};
use crate::response::{self, Reply};
use crate::{clock, storage};

/// What a budget says about a pod, decided purely.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// Go ahead; the budget is not touched.
    Free,
    /// Go ahead with this new state of the budget.
    Charged(Value),
    /// Not now.
    Refused(ApiError),
}

impl Call {
    pub(super) async fn evict(&self, body: &[u8]) -> Result<Reply, ApiError> {
        let write = options::write(&self.query, "CreateOptions")?;
        let mut eviction = self.decode(body, "policy", "v1", "Eviction", write.validation)?;
        let name = eviction["metadata"]["name"].as_str().unwrap_or(&self.info.name);
        if !name.is_empty() && name != self.info.name {
            return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
        }
        let given = Some(&eviction["deleteOptions"]).filter(|options| options.is_object()).cloned();
        let mut delete = DeleteOptions::read(Some(&given.unwrap_or_else(|| json!({}))), &self.query)?;
        delete.dry_run |= write.dry_run;
        {
            let mut request = self.admission(
                Operation::Create,
                "Eviction",
                &mut eviction,
                None,
                &write.object,
                write.dry_run,
            );
            self.core.admission.mutate(&mut request)?;
            self.core.admission.validate(&mut request)?;
        }
        let pod = storage::parse(&*self.current()?)?;
        if !ignores_budgets(&pod) {
            self.charge_budget(&pod, delete.dry_run).await?;
        }
        if !delete.dry_run {
            self.mark_disrupted(&delete).await?;
            delete.resource_version = None;
        }
        self.delete_object(&delete).await?;
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
        });
        Ok(self.reply_other(StatusCode::CREATED, &status))
    }

    /// Says in the pod's status why it goes, so that its owners can tell.
    async fn mark_disrupted(&self, delete: &DeleteOptions) -> Result<(), ApiError> {
        let now = clock::now();
        let write = crate::system::internal();
        let change = Change { part: Part::Status, write: &write, body: None, internal: true, tracked: true };
        self.change(&change, |old| {
            let mut new = old.clone();
            new["metadata"]["uid"] = json!(delete.uid.as_deref().unwrap_or_default());
            new["metadata"]["resourceVersion"] =
                json!(delete.resource_version.as_deref().unwrap_or_default());
            let condition = json!({
                "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting",
            });
            set_condition(&mut new, condition, &now);
            Ok(new)
        })
        .await?;
        Ok(())
    }

    /// Takes one disruption from the pod's budget, if it has one.
    async fn charge_budget(&self, pod: &Value, dry_run: bool) -> Result<(), ApiError> {
        let Some(kind) = self.core.catalogue.stored("policy", "poddisruptionbudgets") else { return Ok(()) };
        let range = storage::range(&kind, &self.info.namespace)?;
        let found = self
            .core
            .store
            .range(&range, RangeOptions::default())
            .map_err(|error| ApiError::internal(error.to_string()))?;
        let budgets: Vec<Value> = found
            .records
            .iter()
            .filter_map(|record| storage::parse(record).ok())
            .filter(|budget| {
                LabelSelector::from_value(&budget["spec"]["selector"])
                    .is_ok_and(|selector| selector.matches_value(pod))
            })
            .collect();
        let budget = match budgets.as_slice() {
            [] => return Ok(()),
            [one] => one,
            _ => {
                let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(ApiError::new(500, "", text));
            }
        };
        let name = budget["metadata"]["name"].as_str().unwrap_or_default();
        let mut call = Call::internal(&self.core, Arc::clone(&kind), &self.info.namespace, name);
        call.info.subresource = "status".to_owned();
        let write = WriteOptions { dry_run, ..crate::system::internal() };
        let change = Change { part: Part::Status, write: &write, body: None, internal: true, tracked: true };
        let now = clock::now();
        call.change(&change, |budget| match judge(pod, budget, &now) {
            Verdict::Free => Ok(budget.clone()),
            Verdict::Charged(new) => Ok(new),
            Verdict::Refused(error) => Err(error),
        })
        .await?;
        Ok(())
    }
}

/// A pod that is over, has not started, or is going already disrupts nothing.
fn ignores_budgets(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending") || pod["metadata"]["deletionTimestamp"].is_string()
}

fn judge(pod: &Value, budget: &Value, now: &str) -> Verdict {
    let status = &budget["status"];
    let number = |name: &str| status[name].as_i64().unwrap_or(0);
    let name = budget["metadata"]["name"].as_str().unwrap_or_default();
    let ready = pod["status"]["conditions"]
        .as_array()
        .is_some_and(|list| list.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
    if !ready {
        let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        let healthy_enough =
            number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0;
        if always || healthy_enough {
            return Verdict::Free;
        }
    }
    let refuse = |cause: String| {
        let mut error = response::too_many_requests(
            "Cannot evict pod as it would violate the pod's disruption budget.",
            0,
        );
        error.details = Some(json!({"causes": [{"reason": "DisruptionBudget", "message": cause}]}));
        Verdict::Refused(error)
    };
    if number("observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        let mut error = response::too_many_requests(
            "Cannot evict pod as it would violate the pod's disruption budget.",
            10,
        );
        if let Some(details) = &mut error.details {
            details["causes"] = json!([{
                "reason": "DisruptionBudget",
                "message": format!("The disruption budget {name} is still being processed by the server."),
            }]);
        }
        return Verdict::Refused(error);
    }
    if number("disruptionsAllowed") <= 0 {
        return refuse(format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            number("desiredHealthy"),
            number("currentHealthy")
        ));
    }
    let mut new = budget.clone();
    new["status"]["disruptionsAllowed"] = json!(number("disruptionsAllowed") - 1);
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    new["status"]["disruptedPods"][pod_name] = json!(now);
    // Two evictions must not spend the same disruption.
    Verdict::Charged(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_charged_until_they_are_spent() {
        let pod = json!({"metadata": {"name": "a"}, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}]}});
        let budget = json!({"metadata": {"name": "b", "generation": 1}, "spec": {},
            "status": {"observedGeneration": 1, "disruptionsAllowed": 1, "desiredHealthy": 2, "currentHealthy": 3}});
        let Verdict::Charged(new) = judge(&pod, &budget, "t") else { panic!("must be allowed") };
        assert_eq!(new["status"]["disruptionsAllowed"], 0);
        assert_eq!(new["status"]["disruptedPods"]["a"], "t");
        let Verdict::Refused(error) = judge(&pod, &new, "t") else { panic!("must be refused") };
        assert_eq!((error.code, error.reason), (429, "TooManyRequests"));
        assert!(ignores_budgets(&json!({"status": {"phase": "Succeeded"}, "metadata": {}})));
    }
}
