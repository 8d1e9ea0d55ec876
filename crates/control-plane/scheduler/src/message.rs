//! The sentence that tells a person why a pod has no node.

use std::collections::BTreeMap;

/// When there are no nodes at all.
pub(crate) const NO_NODES: &str = "no nodes available to schedule pods";

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable. ...`
///
/// `before` replaces the counts: the pod was refused before any node was looked at. `after` is what
/// became of looking for room.
pub(crate) fn available(
    nodes: usize,
    before: Option<&str>,
    histogram: &BTreeMap<String, usize>,
    after: &str,
) -> String {
    let mut message = format!("0/{nodes} nodes are available:");
    match before {
        Some(before) => message.push_str(&format!(" {before}.")),
        None => {
            let mut counts: Vec<String> =
                histogram.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            // As text: upstream sorts "10 ..." before "2 ...".
            counts.sort();
            if !counts.is_empty() {
                message.push_str(&format!(" {}.", counts.join(", ")));
            }
        }
    }
    if !after.is_empty() {
        message.push(' ');
        message.push_str(after);
    }
    message
}
