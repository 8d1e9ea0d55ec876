//! What the server keeps: how objects are written, taken away and told of.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use podium_api::patch::strategic_merge_patch;
use podium_api::schema;
use serde_json::{Value, json};

use super::{
    Answer, Commit, Entry, Key, Refusal, State, Target, Watcher, failure, kind_of, respond, scale_of,
};
use crate::clock::Clock;

impl State {
    pub(super) fn rescale(&mut self, target: &Target, scale: &Value) -> Result<Value, Refusal> {
        let old = self.get(&target.key())?;
        let mut object = Value::clone(&old);
        object["metadata"]["resourceVersion"] = scale["metadata"]["resourceVersion"].clone();
        object["spec"]["replicas"] = scale["spec"]["replicas"].clone();
        let whole = Target { subresource: String::new(), ..Target::of(target) };
        self.replace(&whole, object).map(|object| scale_of(&object))
    }

    pub(super) fn commit(&mut self, key: &Key, type_: &'static str, object: &mut Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.changes += usize::from(key.0 != "coordination.k8s.io/leases");
        if let Some(trace) = &mut self.trace {
            trace.push(brief(self.version, key, type_, object));
        }
        let text = Bytes::from(object.to_string());
        if type_ == "DELETED" {
            self.texts.remove(key);
        } else {
            self.texts.insert(key.clone(), text.clone());
        }
        let entry = Entry { version: self.version, key: key.clone(), type_, text };
        if !self.held.contains_key(&key.0) {
            tell(&mut self.watchers, self.lagging, &entry);
        }
        self.log.push(entry);
    }

    /// What is answered to a write.
    pub(super) fn written(&self, object: &Value) -> Bytes {
        let version = object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok());
        let last = self.log.last().filter(|it| version == Some(it.version));
        // A write that changes nothing is no entry.
        last.map_or_else(|| Bytes::from(object.to_string()), |entry| entry.text.clone())
    }

    /// Stores an object unless it is the same, and lets it go when it was only waiting for its finalizers.
    pub(super) fn store(&mut self, key: &Key, mut object: Value) -> Arc<Value> {
        let type_ = match self.objects.get(key) {
            Some(old) if **old == object => return Arc::clone(old),
            Some(_) => "MODIFIED",
            None => "ADDED",
        };
        let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
        let held = !empty(&object["metadata"]["finalizers"]) || !empty(&object["spec"]["finalizers"]);
        let ending = object["metadata"]["deletionGracePeriodSeconds"].as_i64().is_some_and(|grace| grace > 0);
        if object["metadata"]["deletionTimestamp"].is_string() && !held && !ending {
            self.commit(key, "DELETED", &mut object);
            let old = self.objects.remove(key);
            self.show(key, old.as_deref(), None);
            return Arc::new(object);
        }
        self.commit(key, type_, &mut object);
        let object = Arc::new(object);
        let old = self.objects.insert(key.clone(), Arc::clone(&object));
        self.show(key, old.as_deref(), Some(&object));
        object
    }

    pub(super) fn show(&mut self, key: &Key, old: Option<&Value>, new: Option<&Value>) {
        if let Some(hook) = &mut self.hook {
            hook(&Commit { key, old, new, objects: &self.objects, writer: self.writer });
        }
    }

    pub(super) fn remove(&mut self, key: &Key) {
        if let Some(mut object) = self.objects.remove(key).map(Arc::unwrap_or_clone) {
            self.commit(key, "DELETED", &mut object);
            self.show(key, Some(&object), None);
        }
    }

    pub(super) fn get(&self, key: &Key) -> Result<Arc<Value>, Refusal> {
        let missing = || Refusal(404, "NotFound", format!("{} {:?} not found", key.0, key.2));
        self.objects.get(key).cloned().ok_or_else(missing)
    }

    pub(super) fn list(&self, target: &Target, name: Option<&str>) -> Bytes {
        let items: Vec<&[u8]> = self
            .texts
            .iter()
            .filter(|(key, _)| key.0 == target.resource)
            .filter(|(key, _)| target.namespace.is_empty() || key.1 == target.namespace)
            .filter(|(key, _)| name.is_none_or(|name| name == key.2))
            .map(|(_, text)| &**text)
            .collect();
        let (api_version, _) = kind_of(&target.resource);
        let head = format!(
            r#"{{"kind":"{}List","apiVersion":"{api_version}","metadata":{{"resourceVersion":"{}"}},"items":["#,
            target.kind, self.version
        );
        Bytes::from([head.as_bytes(), &items.join(&b","[..]), b"]}"].concat())
    }

    pub(super) fn watch(
        &mut self,
        target: &Target,
        from: u64,
        name: Option<String>,
        reader: usize,
    ) -> Answer {
        let (sender, receiver) = futures::channel::mpsc::unbounded();
        let mut backlog = VecDeque::new();
        let id = (reader, target.resource.clone());
        if let Some(place) = self.expired.iter().position(|it| *it == id) {
            self.expired.remove(place);
            return respond(410, &failure(&Refusal(410, "Expired", "too old resource version".to_owned())));
        }
        let until = self.held.get(&target.resource).copied().unwrap_or(self.log.len());
        // Versions count up from one.
        let known = usize::try_from(from).expect("a small number").min(until);
        for entry in &self.log[known..until] {
            let (key, line) = (&entry.key, entry.line());
            if key.0 == target.resource && name.as_ref().is_none_or(|name| *name == key.2) {
                if self.lagging {
                    backlog.push_back(line);
                } else {
                    sender.unbounded_send(Ok(Frame::data(line))).expect("just opened");
                }
            }
        }
        let resource = target.resource.clone();
        self.watchers.push(Watcher { resource, name, reader, backlog, sender });
        Response::builder().status(200).body(BodyExt::boxed(StreamBody::new(receiver))).unwrap()
    }

    pub(super) fn create(
        &mut self,
        resource: &str,
        namespace: &str,
        mut object: Value,
    ) -> Result<Arc<Value>, Refusal> {
        if let Some((refused, message)) = &self.refuse
            && refused == resource
        {
            return Err(Refusal(403, "Forbidden", message.clone()));
        }
        if self.clock.is_some() {
            self.admit(resource, namespace, &mut object)?;
        }
        self.uids += 1;
        let (api_version, kind) = kind_of(resource);
        object["apiVersion"] = json!(api_version);
        object["kind"] = json!(kind);
        if object["metadata"]["name"].as_str().is_none_or(str::is_empty) {
            let prefix = object["metadata"]["generateName"].as_str().unwrap_or_default();
            object["metadata"]["name"] = json!(format!("{prefix}{:05}", self.uids));
        }
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let key = (resource.to_owned(), namespace.to_owned(), name.clone());
        if self.objects.contains_key(&key) {
            return Err(Refusal(409, "AlreadyExists", format!("{resource} {name:?} already exists")));
        }
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = json!(namespace);
        }
        object["metadata"]["uid"] = json!(format!("uid-{}", self.uids));
        object["metadata"]["generation"] = json!(1);
        // Without a clock creation times must differ: they order ReplicaSets.
        let created = match self.clock {
            Some(clock) => clock.now().as_second(),
            None => i64::try_from(self.uids).unwrap(),
        };
        object["metadata"]["creationTimestamp"] = json!(seconds(created));
        if resource == "/pods" {
            object["status"] = json!({"phase": "Pending"});
        }
        if resource == "/namespaces" {
            object["spec"]["finalizers"] = json!(["kubernetes"]);
            object["status"]["phase"] = json!("Active");
        }
        Ok(self.store(&key, object))
    }

    /// What the API server's own admission and defaulting do, as far as controllers count on it.
    pub(super) fn admit(&self, resource: &str, namespace: &str, object: &mut Value) -> Result<(), Refusal> {
        let inside = self.objects.get(&("/namespaces".to_owned(), String::new(), namespace.to_owned()));
        let special = namespace.is_empty() || namespace.starts_with("kube-");
        if !special && inside.is_none_or(|it| it["metadata"]["deletionTimestamp"].is_string()) {
            let message = format!("namespace {namespace} is being terminated");
            return Err(Refusal(403, "NamespaceTerminating", message));
        }
        if resource == "/persistentvolumeclaims" {
            object["metadata"]["finalizers"] = json!(["kubernetes.io/pvc-protection"]);
        }
        if resource == "batch/jobs" && object["spec"]["selector"].is_null() {
            let uid = format!("uid-{}", self.uids + 1);
            object["spec"]["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
            object["spec"]["template"]["metadata"]["labels"]["batch.kubernetes.io/controller-uid"] =
                json!(uid);
        }
        Ok(())
    }

    pub(super) fn replace(&mut self, target: &Target, mut object: Value) -> Result<Arc<Value>, Refusal> {
        let key = target.key();
        let old = self.get(&key)?;
        let (from, to) = (&old["metadata"], &object["metadata"]);
        if (to["resourceVersion"].is_string() && to["resourceVersion"] != from["resourceVersion"])
            || (to["uid"].is_string() && to["uid"] != from["uid"])
        {
            return Err(Refusal(409, "Conflict", format!("{} {:?} has been modified", key.0, key.2)));
        }
        for field in [
            "uid",
            "resourceVersion",
            "generation",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ] {
            object["metadata"][field] = old["metadata"][field].clone();
        }
        object["apiVersion"] = old["apiVersion"].clone();
        object["kind"] = old["kind"].clone();
        if target.subresource == "status" {
            object["spec"] = old["spec"].clone();
        } else if old["status"].is_object() {
            object["status"] = old["status"].clone();
        }
        if object["spec"] != old["spec"] {
            object["metadata"]["generation"] = json!(old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
        drop_nulls(&mut object);
        Ok(self.store(&key, object))
    }

    pub(super) fn patch(
        &mut self,
        target: &Target,
        patch: &Value,
        strategic: bool,
    ) -> Result<Arc<Value>, Refusal> {
        let old = self.get(&target.key())?;
        let mut object = Value::clone(&old);
        if let Some(uid) = patch["metadata"]["uid"].as_str()
            && object["metadata"]["uid"] != uid
        {
            return Err(Refusal(409, "Conflict", "uid in precondition is another".to_owned()));
        }
        if strategic {
            let (group, version) = target.group_version();
            let type_ = schema::type_of(&group, version, target.kind).expect("a known kind");
            object = strategic_merge_patch(&object, &serde_json::to_vec(patch).unwrap(), type_)
                .map_err(|error| Refusal(422, "Invalid", error.message))?;
        } else {
            merge(&mut object, patch);
        }
        self.replace(&Target { subresource: target.subresource.clone(), ..Target::of(target) }, object)
    }

    pub(super) fn delete(&mut self, key: &Key, options: &Value) -> Result<Arc<Value>, Refusal> {
        let old = self.get(key)?;
        let mut object = Value::clone(&old);
        let wanted = &options["preconditions"];
        for field in ["uid", "resourceVersion"] {
            if wanted[field].is_string() && wanted[field] != object["metadata"][field] {
                return Err(Refusal(409, "Conflict", "precondition failed".to_owned()));
            }
        }
        let mut finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        match options["propagationPolicy"].as_str() {
            Some("Foreground") => finalizers.push(json!("foregroundDeletion")),
            Some("Orphan") => finalizers.push(json!("orphan")),
            _ => {}
        }
        finalizers.dedup();
        if !finalizers.is_empty() {
            object["metadata"]["finalizers"] = json!(finalizers);
        }
        let finished = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let runs = key.0 == "/pods" && object["spec"]["nodeName"].is_string() && !finished;
        let now = options["gracePeriodSeconds"] == 0 || !runs;
        let later = object["metadata"]["deletionGracePeriodSeconds"].as_i64() != Some(0);
        if object["metadata"]["deletionTimestamp"].is_null() || (now && later) {
            let time = self.clock.map_or(1_000_000, |clock| clock.now().as_second());
            object["metadata"]["deletionTimestamp"] = json!(seconds(time));
            object["metadata"]["deletionGracePeriodSeconds"] = json!(if now { 0 } else { 30 });
        }
        if key.0 == "/namespaces" {
            object["status"]["phase"] = json!("Terminating");
        }
        Ok(self.store(key, object))
    }

    pub(super) fn delete_all(&mut self, target: &Target, options: &Value) -> Result<Bytes, Refusal> {
        let keys: Vec<Key> = self
            .objects
            .keys()
            .filter(|key| key.0 == target.resource && key.1 == target.namespace)
            .cloned()
            .collect();
        for key in keys {
            self.delete(&key, options)?;
        }
        Ok(self.list(target, None))
    }
}

/// Tells a change to the watches that it concerns, now or when they are next delivered to.
pub(super) fn tell(watchers: &mut Vec<Watcher>, lagging: bool, entry: &Entry) {
    let mut line = None;
    watchers.retain_mut(|watcher| {
        let key = &entry.key;
        if watcher.resource != key.0 || watcher.name.as_ref().is_some_and(|name| *name != key.2) {
            return true;
        }
        let line = line.get_or_insert_with(|| entry.line()).clone();
        if lagging {
            watcher.backlog.push_back(line);
            return !watcher.sender.is_closed();
        }
        watcher.sender.unbounded_send(Ok(Frame::data(line))).is_ok()
    });
}

/// A change in a line.
fn brief(version: u64, key: &Key, type_: &str, object: &Value) -> String {
    let mut line = format!("  {version} {type_} {} {}/{}", key.0, key.1, key.2);
    let (meta, spec) = (&object["metadata"], &object["spec"]);
    for (name, value) in [
        ("replicas", &spec["replicas"]),
        ("node", &spec["nodeName"]),
        ("deleted", &meta["deletionTimestamp"]),
        ("finalizers", &meta["finalizers"]),
        ("status", &object["status"]),
    ] {
        if !value.is_null() {
            line.push_str(&format!(" {name} {value}"));
        }
    }
    line
}

fn seconds(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap().to_string()
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut target[name.as_str()], value);
        }
    }
}

fn drop_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, value| !value.is_null());
        fields.values_mut().for_each(drop_nulls);
    }
}
