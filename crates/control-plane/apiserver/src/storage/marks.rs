//! What a record can be found by, as bits of one word (see `podium_store::Record::set_mark`).
//!
//! Lists by selector are what controllers, kubelets and people ask for most, and mostly want few of many. A label sets two
//! bits of the lower 40, a field one of the upper 24: an object with five labels and eight fields is looked at in vain for
//! one label in twenty, for one field in four.

use std::hash::{BuildHasher, Hasher};

const LABEL_BITS: u64 = 40;
const FIELD_BITS: u64 = 24;

/// The bits of a label.
pub(super) fn label(key: &str, value: &str) -> u64 {
    let hash = hash(key, value);
    1 << (hash % LABEL_BITS) | 1 << ((hash >> 32) % LABEL_BITS)
}

/// The bit of a selectable field.
pub(super) fn field(name: &str, value: &str) -> u64 {
    1 << (LABEL_BITS + hash(name, value) % FIELD_BITS)
}

/// The same for as long as this process runs; nobody can choose labels that collide.
fn hash(name: &str, value: &str) -> u64 {
    static STATE: std::sync::LazyLock<ahash::RandomState> = std::sync::LazyLock::new(Default::default);
    let mut hasher = STATE.build_hasher();
    hasher.write(name.as_bytes());
    hasher.write_u8(0xff);
    hasher.write(value.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use podium_store::{Key, Record};
    use serde_json::json;

    use crate::catalogue::Catalogue;
    use crate::storage::{Meta, Selection};

    #[test]
    fn whatever_is_selected_has_the_bits() {
        let catalogue = Catalogue::built_in(&podium_api::resources::Selection::default());
        let pods = catalogue.find("", "v1", "pods").expect("pods are served");
        let pod = |number: usize| {
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": format!("p{number}"), "namespace": "n",
                    "labels": {"app": format!("a{}", number % 7), "n": number.to_string(), "empty": ""},
                },
                "spec": {"nodeName": (["", "node1", "node2", "node3", "node4"][number % 5])},
                "status": {"phase": "Running"},
            })
        };
        let of = |number: usize, object: &serde_json::Value| {
            let bytes = Bytes::from(object.to_string());
            let record =
                Record::new(Key::from(format!("{}n/p{number}", pods.prefix)), bytes, 2, 2, 1, None, None);
            Meta::remember(&pods, &record, object);
            record
        };
        let select = |labels: &str, fields: &str| Selection {
            labels: podium_api::selector::LabelSelector::parse(labels).expect("a selector"),
            fields: podium_api::selector::FieldSelector::parse(fields).expect("a selector"),
        };
        let records: Vec<_> = (0..100).map(|number| of(number, &pod(number))).collect();
        for (labels, fields) in [
            ("", ""),
            ("app=a3", ""),
            ("app==a3,n=10", ""),
            ("app in (a1)", "spec.nodeName=node2"),
            ("app in (a1,a2),n notin (8)", ""),
            ("app!=a1", ""),
            ("!gone,app", ""),
            ("empty=", ""),
            ("n>50", ""),
            ("", "spec.nodeName=node1,status.phase=Running"),
            ("", "spec.nodeName="),
            ("", "spec.nodeName!=node1"),
            ("", "metadata.name=p4"),
            ("", "metadata.namespace=n,status.phase!=Failed"),
        ] {
            let selection = select(labels, fields);
            let mut wanted = 0;
            for (number, record) in records.iter().enumerate() {
                if selection.matches(&pods, record) {
                    wanted += 1;
                    let has = record.mark() & selection.bits() == selection.bits();
                    assert!(has, "{labels} {fields} {number}");
                }
            }
            assert!(wanted > 0, "{labels} {fields} selects nothing");
        }
        // Which labels share bits is another in every process. Of a hundred labels, each looked for among a hundred objects of three
        // labels, about two in a hundred objects are looked at in vain; a quarter would be one process in more than there are.
        let bits: Vec<_> = (0..100).map(|number| select(&format!("n={number}"), "").bits()).collect();
        let looked_at = bits
            .iter()
            .flat_map(|bits| records.iter().filter(move |record| record.mark() & bits == *bits))
            .count();
        assert!(looked_at < 2_500, "{looked_at} of 10,000 were looked at: the bits say nothing");
    }
}
